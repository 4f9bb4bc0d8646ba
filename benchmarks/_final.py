"""Final rankings of contestants that measured the same configurations, and how far they agree. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.agents.analysis.results import FLOOR

TOP = 30
SHARES = (0.0, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1.0)
"""Shares of all configurations that might be measured on rung 1."""

Answers = Sequence[Mapping[str, Any]]


def levels(answers: Answers) -> NDArray[np.float64]:
    """Logarithms of KLD of every configuration; infinite where the run broke down."""
    return np.array([np.inf if a["kld"] is None else np.log(max(a["kld"], FLOOR)) for a in answers])


def merged(cheap: Answers, promoted: Mapping[int, Mapping[str, Any]]) -> NDArray[np.float64]:
    """Logarithms of KLD on rung 1: measured if promoted, else what the cheap rung lets expect.

    The expectation is a line through the promoted ones, on the logarithmic scale of both rungs.
    """
    low, measured = levels(cheap), {int(place): levels([answer])[0] for place, answer in promoted.items()}
    both = [(low[place], level) for place, level in measured.items() if np.isfinite(low[place] + level)]
    slope, shift = np.polyfit(*zip(*both, strict=True), 1) if len({x for x, _ in both}) > 1 else (1.0, 0.0)
    found = shift + max(slope, 1e-6) * low
    for place, level in measured.items():
        found[place] = level
    return np.asarray(found)


def tau(truth: NDArray[np.float64], found: NDArray[np.float64], top: int = TOP) -> float:
    """Kendall's tau between two rankings of the first configurations of the true one."""
    from scipy.stats import kendalltau

    first = np.argsort(truth, kind="stable")[:top]
    orders = (np.unique(x[first], return_inverse=True)[1] for x in (truth, found))
    return float(kendalltau(*orders).statistic)


def agreement(careful: Answers, promoted: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """How far two measurements of the same configuration, rung and windows are apart."""
    pairs = [(careful[int(place)], answer) for place, answer in promoted.items()]
    pairs = [(a, b) for a, b in pairs if a["kld"] and b["kld"]]
    if not pairs:
        return {"n": 0}
    relative = [abs(b["kld"] / a["kld"] - 1) for a, b in pairs]
    return {
        "n": len(pairs),
        "kld_largest": max(relative),
        "kld_median": float(np.median(relative)),
        "same_top1_largest": max(abs(a["same_top1"] - b["same_top1"]) for a, b in pairs),
        "bits_largest": max(abs(a["bits"] - b["bits"]) for a, b in pairs),
    }


def best(answers: Answers) -> list[int]:
    """Places on the true Pareto front of KLD and bits/value."""
    from swarm.memory.front import pareto_front

    return pareto_front([(float(level), a["bits"]) for level, a in zip(levels(answers), answers, strict=True)])


def curve(careful: Answers, cheap: Answers, order: Sequence[int]) -> list[dict[str, float]]:
    """Tau had other shares been measured on rung 1, the best of the cheap one first."""
    truth, found = levels(careful), []
    for share in SHARES:
        promoted = order[: round(share * len(cheap))]
        found.append({"share": share, "tau": tau(truth, merged(cheap, {place: careful[place] for place in promoted}))})
    return found
