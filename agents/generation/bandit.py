"""Who deserves the next turn: each proposer's record of trials that moved the Pareto front of their model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

from swarm.agents.analysis.pareto import Point, front, hypervolume
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.optuna_bridge.study import objectives
from swarm.agents.settings import AgentSettings
from swarm.memory.records import TrialRecord

LOWEST = -5.0
"""log10 of a KLD below which nothing more is gained: it anchors the hypervolume box."""

GAIN = 0.002
"""Share of the box by which a trial must move the front to count as a hit."""

PRIOR = (1.0, 1.0)


@dataclass(frozen=True)
class Record:
    """How often somebody's finished trials moved the front."""

    hits: int = 0
    trials: int = 0

    @property
    def rate(self) -> float:
        """Mean of the Beta posterior under a uniform prior."""
        return (self.hits + PRIOR[0]) / (self.trials + sum(PRIOR))


def box(settings: AgentSettings) -> tuple[Point, float]:
    """Reference point and area of the feasible region that hypervolumes are shares of."""
    reference = (log(settings.max_kld, 10), settings.max_bits)
    return reference, (reference[0] - LOWEST) * reference[1]


def records(history: Iterable[TrialRecord], settings: AgentSettings) -> dict[str, Record]:
    """The record of every proposer, from the first-rung quality trials in order."""
    reference, area = box(settings)
    fronts: dict[str, list[Point]] = {}
    volumes: dict[str, float] = {}
    result: dict[str, Record] = {}
    for trial in history:
        if trial.spec.protocol != "quality" or trial.spec.rung or trial.spec.replicate:
            continue
        if trial.state not in ("complete", "failed", "pruned"):
            continue
        hit = 0
        point = objectives(trial)
        if point is not None:
            points = [*fronts.get(trial.spec.model, []), (max(point[0], LOWEST), point[1])]
            points = [points[i] for i in front(points)]
            fronts[trial.spec.model] = points
            volume = hypervolume(points, reference)
            hit = int(volume - volumes.get(trial.spec.model, 0.0) > GAIN * area)
            volumes[trial.spec.model] = volume
        past = result.get(trial.proposer, Record())
        result[trial.proposer] = Record(past.hits + hit, past.trials + 1)
    return result


def draw(names: Sequence[str], context: ProposalContext) -> list[str]:
    """Names in the order of one Thompson sample of their hit rates: the better the record, the more turns."""
    known = records(context.history.records, context.settings)

    def sample(name: str) -> float:
        record = known.get(name, Record())
        return float(context.rng.beta(record.hits + PRIOR[0], record.trials - record.hits + PRIOR[1]))

    drawn = {name: sample(name) for name in names}
    return sorted(names, key=lambda name: -drawn[name])
