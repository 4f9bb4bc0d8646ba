"""Attention scaling: how the attention's KL follows from the number G, and whether models share the law."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from math import log

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.results import FLOOR
from swarm.agents.analysis.statistics import Estimate
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding, FindingKind, TrialRecord

MIN_TRIALS = 5
"""Trials that a fit needs on each model."""

SHARED_FACTOR = log(2.0)
"""Models whose KL at equal G is within this factor share the law."""

MAX_EVIDENCE = 24

Points = list[tuple[float, float, TrialRecord]]


class AttentionScalingAnalyst(Analyst):
    """Fits ln(attention KL) = a + b ln(G) over the attention trials; each trial is one point.

    Theory (small errors) has KL in proportion to G squared, whatever the model's scaling: b = 2, the same a.
    """

    name = "law"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """The exponent on each model, and whether pairs of models share one line."""
        points: dict[str, Points] = defaultdict(list)
        for record in history.select(protocol="attention"):
            point = _point(record)
            if point is not None and record.spec.model in infos:
                points[record.spec.model].append(point)
        usable = {model: points[model] for model in infos if len(points[model]) >= MIN_TRIALS}
        findings = [finding for model, found in usable.items() for finding in self._exponent(model, found)]
        for first, second in combinations(usable, 2):
            findings += self._shared(first, second, usable)
        return findings

    def _exponent(self, model: str, points: Points) -> Iterator[Finding]:
        estimate = _slope(points)
        if estimate is None:
            return
        low, high = estimate.interval()
        if low <= 0 <= high:
            return
        fits = "as theory has it" if low <= 2 <= high else "not with the exponent that theory has for small errors"
        text = f"On {model} the attention's KL {'grows' if low > 0 else 'falls'} as a power of G, {fits}."
        effect = results.effect("exponent of G", estimate, "exponent")
        yield self.finding("sensitivity", "law:attention_kl", (model,), text, effect, _ids(points))

    def _shared(self, first: str, second: str, points: Mapping[str, Points]) -> Iterator[Finding]:
        slope = _common_slope(points[first], points[second])
        if slope is None:
            return
        here, there = (statistics.mean([y - slope * x for x, y, _ in points[model]]) for model in (first, second))
        if here is None or there is None:
            return
        difference = here - there
        low, high = difference.interval()
        is_shared = low > -SHARED_FACTOR and high < SHARED_FACTOR
        if not is_shared and low <= 0 <= high:
            return
        kind: FindingKind = "transfer" if is_shared else "contrast"
        follows = "follows" if is_shared else "does not follow"
        text = f"The attention's KL {follows} from G in the same way on {first} and {second}."
        effect = results.ratio(f"KL at equal G, {first} / {second}", difference)
        ids = _ids([*points[first], *points[second]])
        yield self.finding(kind, f"law:{kind}:attention_kl", (first, second), text, effect, ids)


def _point(record: TrialRecord) -> tuple[float, float, TrialRecord] | None:
    """Mean ln(G) and ln(KL) over the trial's layers."""
    g, kl = (record.arrays.get(f"layer_{name}", ()) for name in ("g", "attention_kl"))
    pairs = [(log(a), log(b)) for a, b in zip(g, kl, strict=False) if a > FLOOR and b > FLOOR]
    if not pairs or not results.is_consistent(record):
        return None
    return sum(x for x, _ in pairs) / len(pairs), sum(y for _, y in pairs) / len(pairs), record


def _slope(points: Points) -> Estimate | None:
    return statistics.slope([x for x, _, _ in points], [y for _, y, _ in points])


def _common_slope(first: Points, second: Points) -> float | None:
    """Slope within the models, weighted by what each of them says."""
    slopes: list[Estimate] = []
    for points in (first, second):
        found = _slope(points)
        if found is None or found.stderr == 0:
            return None
        slopes.append(found)
    weights = [slope.stderr**-2 for slope in slopes]
    return sum(w * slope.mean for w, slope in zip(weights, slopes, strict=True)) / sum(weights)


def _ids(points: Points) -> tuple[int, ...]:
    return tuple(record.id for _, _, record in points[:MAX_EVIDENCE])
