"""Which trials would help most to decide between configurations: the expected gain of knowing their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from swarm.agents.analysis.comparable import ComparableResults
from swarm.agents.analysis.posterior import Posterior
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec

WINDOWS = 4
"""Text windows of a trial, where nothing was measured that would say."""
NODES = 9
"""Points of the quadrature over what a trial may show."""
WORTH = 0.01
"""Share of the loss below which a gain is none: then trials are named that narrow the interval of the choice."""


def trials(
    known: ComparableResults,
    prices: Mapping[KVSpec, float],
    posterior: Posterior,
    tolerance: float | None,
    choice: int,
    count: int,
) -> list[tuple[TrialSpec, str]]:
    """The trials that would help most to decide, each with why; each supposes that those before it are done.

    Args:
        known: what was measured.
        prices: the configurations to choose from, and what they cost.
        posterior: what is expected of them, in this order.
        tolerance: what the choice may lose; None: the least is chosen.
        choice: place of the present choice.
        count: how many trials.
    """
    own, template, pool, costs = known.own, known.template, list(prices), list(prices.values())
    counts = {len(r.samples([replicate])) for r in own.values() for replicate in r.replicates}
    size = max(counts, default=WINDOWS)
    done = {place: set(own[kv].replicates) if kv in own else set() for place, kv in enumerate(pool)}
    found: list[tuple[TrialSpec, str]] = []
    for _ in range(count):
        asked = {place: _next(known) for place, known in done.items()}
        windows = {place: [(replicate, k) for k in range(size)] for place, replicate in asked.items()}
        gains = np.array([_gain(posterior, place, windows[place], tolerance, costs, choice) for place in asked])
        worth = WORTH * (float(posterior.expected[choice]) if tolerance is None else 1.0)
        best = int(np.argmax(gains))
        if gains[best] > worth:
            why = _why(tolerance, float(gains[best]), float(posterior.expected[choice]))
        else:
            best = int(np.argmax([_sharpens(posterior, place, windows[place], choice) for place in asked]))
            why = "narrows the interval of the recommended configuration most"
        change = {"kv": pool[best], "replicate": asked[best], "seed": template.seed + asked[best]}
        found.append((template.model_copy(update=change), why))
        posterior = posterior.after(best, windows[best])
        done[best].add(asked[best])
    return found


def _next(replicates: set[int]) -> int:
    return next(k for k in range(len(replicates) + 1) if k not in replicates)


def _gain(
    posterior: Posterior,
    place: int,
    windows: Sequence[tuple[int, int]],
    tolerance: float | None,
    costs: Sequence[float],
    choice: int,
) -> float:
    """What knowing a trial's result is worth: nats of KLD, or with a tolerance the share of the cost that it saves."""
    reach, variance = posterior.seen_by(place, windows)
    step = reach[: len(posterior.mean)] / np.sqrt(variance)
    if tolerance is not None:
        return _saving(posterior, place, float(step[place]), tolerance, costs, choice)
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    level = np.log(posterior.expected) - step**2 / 2
    after = np.exp(level[:, None] + step[:, None] * points[None, :]).min(axis=0)
    return float(posterior.expected.min() - after @ weights / weights.sum())


def _saving(
    posterior: Posterior, place: int, step: float, tolerance: float, costs: Sequence[float], choice: int
) -> float:
    """How likely a cheaper configuration turns out to be safe, times what it saves."""
    from scipy.special import ndtr

    saved = 1 - costs[place] / costs[choice]
    left = np.sqrt(max(float(posterior.variance[place]) - step**2, 1e-12))
    bar = np.log(tolerance) - 1.645 * left - posterior.spread.smear - float(posterior.mean[place])
    return saved * float(ndtr(bar / max(abs(step), 1e-9))) if saved > 0 else 0.0


def _sharpens(posterior: Posterior, place: int, windows: Sequence[tuple[int, int]], choice: int) -> float:
    """By how much a trial lowers the variance of the choice."""
    reach, variance = posterior.seen_by(place, windows)
    return float(reach[choice] ** 2 / variance)


def _why(tolerance: float | None, gain: float, expected: float) -> str:
    if tolerance is not None:
        return f"may show that a cheaper configuration is safe: expected saving {gain:.1%} of the cost"
    return f"may show that another configuration is better: expected gain {gain / expected:.1%} of the loss"
