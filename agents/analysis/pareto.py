"""What a search minimises, with Pareto ranks that know the noise, and hypervolume.

Trials of caches: (log10 KLD, bits/value). Trials of engines: see `engine_speed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, log10

import numpy as np
from numpy.typing import NDArray

from swarm.agents.analysis import engine_speed
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.settings import AgentSettings
from swarm.memory.front import Point, pareto_front
from swarm.memory.records import TrialRecord

FLOOR = 1e-7
"""KLD below which no measurement can tell differences."""

LOWEST = -5.0
"""log10 of a KLD below which nothing more is gained: it anchors the hypervolume box."""

DOUBT = 0.01
"""A result is dominated only when the paired test leaves less doubt than this."""


def dominance(found: Sequence[ConfigResult]) -> NDArray[np.bool_]:
    """Matrix of who dominates whom: [i, j] is true when i costs no more bits than j and is really better.

    Better means: by more than the noise of the windows that both share (one-sided paired t test). Without two shared
    windows the plain means decide.
    """
    from scipy.special import stdtr

    columns = {window: k for k, window in enumerate(sorted({w for result in found for w in result.samples()}))}
    x = np.full((len(found), len(columns)), np.nan)
    for i, result in enumerate(found):
        for window, value in result.samples().items():
            x[i, columns[window]] = value
    bits = np.array([np.inf if result.bits is None else result.bits for result in found])
    difference = x[:, None, :] - x[None, :, :]
    seen = np.isfinite(difference)
    n = seen.sum(axis=2)
    total = np.where(seen, difference, 0.0)
    mean = total.sum(axis=2) / np.maximum(n, 1)
    spread = np.where(seen, difference - mean[:, :, None], 0.0)
    stderr = np.sqrt((spread**2).sum(axis=2) / np.maximum(n - 1, 1) / np.maximum(n, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        doubt = stdtr(np.maximum(n - 1, 1), mean / stderr)
    level = np.array([result.level for result in found])
    plain = level[:, None] < level[None, :]
    exact = (stderr == 0) & (mean < 0)
    better = np.where(n < 2, plain, exact | ((stderr > 0) & (doubt < DOUBT)))
    dominates: NDArray[np.bool_] = better & (bits[:, None] <= bits[None, :] + 1e-9)
    return dominates


def ranks(found: Sequence[ConfigResult]) -> list[int]:
    """Pareto rank of each result: 0 for those that nothing dominates, 1 for those that only rank 0 dominates, ..."""
    by = dominance(found)
    left = np.ones(len(found), dtype=bool)
    found_ranks = np.zeros(len(found), dtype=int)
    rank = 0
    while left.any():
        # Noisy dominance is not transitive: a cycle is broken by taking those that the fewest dominate.
        count = np.where(left, by[left].sum(axis=0), np.iinfo(int).max)
        layer = left & (count == count[left].min())
        found_ranks[layer] = rank
        left &= ~layer
        rank += 1
    return [int(r) for r in found_ranks]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area or volume that the points dominate, up to the reference; all objectives are minimised."""
    inside = [p for p in points if all(a < b for a, b in zip(p, reference, strict=False))]
    if len(reference) > 2:
        return _slices(inside, reference)
    area = 0.0
    ceiling = reference[0]
    for i in pareto_front(inside):
        value, cost = inside[i]
        area += (ceiling - value) * (reference[1] - cost)
        ceiling = value
    return area


def _slices(inside: Sequence[Point], reference: Point) -> float:
    """The volume, slice by slice along the last objective."""
    ordered = sorted(inside, key=lambda p: p[-1])
    ends = [*(p[-1] for p in ordered[1:]), reference[-1]]
    depths = [(end - p[-1], i) for i, (p, end) in enumerate(zip(ordered, ends, strict=True))]
    return sum(d * hypervolume([p[:-1] for p in ordered[: i + 1]], reference[:-1]) for d, i in depths if d > 0)


def is_search(record: TrialRecord) -> bool:
    """Whether a trial is a first look at a configuration: first rung, not edited, repeated or outdated."""
    spec = record.spec
    searched = spec.protocol in ("quality", engine_speed.PROTOCOL)
    return searched and not (spec.rung or spec.replicate or spec.edits or record.outdated)


def objectives(record: TrialRecord) -> Point | None:
    """(log10 KLD, bits/value) of a completed trial, or those of an engine; None when it has no such measurement.

    KLD below the measured noise floor counts as the floor: differences down there are not real.
    """
    metrics = record.metrics
    if record.spec.engine is not None:
        return engine_speed.objectives(record)
    if record.state != "complete" or "kld" not in metrics or "bits_per_value" not in metrics:
        return None
    noise = metrics["noise_kld"].value if "noise_kld" in metrics else 0.0
    return log10(max(metrics["kld"].value, noise, FLOOR)), metrics["bits_per_value"].value


def excess(record: TrialRecord, point: Point, settings: AgentSettings) -> dict[str, float]:
    """By how much a completed trial with these objectives is beyond each limit; positive is infeasible."""
    if record.spec.engine is not None:
        return engine_speed.excess(record, settings)
    return {"kld": point[0] - log10(settings.max_kld), "bits": point[1] - settings.max_bits}


def scored(record: TrialRecord, settings: AgentSettings) -> Point | None:
    """Objectives as hypervolumes count them: no lower than the box; None for what gains nothing."""
    point = objectives(record)
    if point is None or record.spec.engine is None:
        return point and (max(point[0], LOWEST), *point[1:])
    return None if any(by > 0 for by in excess(record, point, settings).values()) else point


def frame(records: Sequence[TrialRecord], model: str, settings: AgentSettings) -> tuple[Point, float] | None:
    """Reference point and size of the region that hypervolumes of a model's trials are shares of; None without one."""
    if not records or records[0].spec.engine is None:
        return box(settings)
    return engine_speed.frame(records, model)


def box(settings: AgentSettings) -> tuple[Point, float]:
    """Reference point and area of the feasible region that hypervolumes are shares of."""
    reference = (log(settings.max_kld, 10), settings.max_bits)
    return reference, (reference[0] - LOWEST) * reference[1]
