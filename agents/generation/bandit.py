"""Which sampler is asked next: a draw by how often each one's trials moved the Pareto front of their model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from swarm.agents.analysis.pareto import frame, hypervolume, is_search, scored
from swarm.agents.settings import AgentSettings
from swarm.memory.front import Point, pareto_front
from swarm.memory.records import TrialRecord

GAIN = 0.002
"""Share of the box by which a trial must move the front to count as a hit."""

PRIOR = (1.0, 1.0)
"""Hits and misses that every sampler starts with: a uniform Beta prior."""


@dataclass(frozen=True)
class HitRate:
    """How often the finished trials of a sampler moved the front."""

    hits: int = 0
    trials: int = 0

    def draw(self, rng: np.random.Generator) -> float:
        """A sample of the Beta posterior of the rate."""
        return float(rng.beta(self.hits + PRIOR[0], self.trials - self.hits + PRIOR[1]))


def hit_rates(records: Iterable[TrialRecord], settings: AgentSettings) -> dict[str, HitRate]:
    """The hit rate of every proposer, from the first looks at configurations in order."""
    records = list(records)
    frames = {model: frame(records, model, settings) for model in {record.spec.model for record in records}}
    fronts: dict[str, list[Point]] = {}
    volumes: dict[str, float] = {}
    result: dict[str, HitRate] = {}
    for trial in records:
        if not is_search(trial) or trial.state not in ("complete", "failed", "pruned"):
            continue
        hit = 0
        point, within = scored(trial, settings), frames[trial.spec.model]
        if point is not None and within is not None:
            reference, area = within
            points = [*fronts.get(trial.spec.model, []), point]
            points = [points[i] for i in pareto_front(points)]
            fronts[trial.spec.model] = points
            volume = hypervolume(points, reference)
            hit = int(volume - volumes.get(trial.spec.model, 0.0) > GAIN * area)
            volumes[trial.spec.model] = volume
        past = result.get(trial.proposer, HitRate())
        result[trial.proposer] = HitRate(past.hits + hit, past.trials + 1)
    return result


def order(names: Sequence[str], rates: dict[str, HitRate], rng: np.random.Generator) -> list[str]:
    """Names in the order of one Thompson sample of their hit rates: the better the record, the more turns."""
    drawn = {name: rates.get(name, HitRate()).draw(rng) for name in names}
    return sorted(names, key=lambda name: -drawn[name])
