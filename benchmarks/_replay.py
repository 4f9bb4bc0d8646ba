"""Search strategies replayed on measured configurations: who asks for what, in which order. Measures nothing.

A replayed trial is a row of the table; strategies are the project's own code and Optuna's own samplers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log10, sqrt
from typing import TYPE_CHECKING

import numpy as np
from benchmarks import _grid
from benchmarks._table import CONTEXT, SERIES, Table

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.analysis.pareto import objectives
from swarm.agents.generation.context import derive, generator
from swarm.agents.generation.nodes.base import nodes
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.samplers.optuna_bridge.study import ModelStudy
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.experiments.spec import Metric, TrialSpec
from swarm.memory.records import TrialRecord

if TYPE_CHECKING:
    import optuna

    from swarm.experiments.models.base import ModelInfo

ATTEMPTS = 8
"""How often a sampler that repeats itself is asked again, before a random configuration takes its place."""
SETTINGS = AgentSettings(
    control_share=0.0,
    shares={name: 0.0 for name, kind in nodes().items() if kind.arm == "agents" and name != "quality"},
)
"""Only trials of the table: the first rung of new configurations, and no control arm."""


@dataclass(frozen=True)
class Ground:
    """What is searched: models, the grid over them, and what was measured."""

    infos: Sequence[ModelInfo]
    table: Table

    @property
    def grid(self) -> _grid.Grid:
        """The space of these models."""
        return _grid.Grid(self.infos, CONTEXT)

    def record(self, number: int, spec: TrialSpec, proposer: str) -> TrialRecord:
        """The finished trial of a specification."""
        row = self.table[spec.model][spec.kv]
        metrics = {name: Metric.of(name, value) for name, value in row.metrics.items()}
        if len(row.windows) > 1:
            spread = float(np.std(row.windows, ddof=1)) / sqrt(len(row.windows))
            metrics["kld"] = Metric.of("kld", row.metrics["kld"], "nat", len(row.windows), spread)
        return TrialRecord(
            id=number + 1,
            number=number,
            campaign_id=1,
            fingerprint=fingerprint(spec),
            spec=spec,
            arm="agents",
            proposer=proposer,
            state="complete" if row.outcome == "ok" else "failed",
            outcome=row.outcome,
            metrics=metrics,
            arrays={SERIES: row.windows} if row.windows else {},
        )


class Strategy(ABC):
    """One way to search one model."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground = ground
        self.seed = seed
        self.grid = ground.grid

    @abstractmethod
    def ask(self, records: Sequence[TrialRecord]) -> TrialSpec:
        """The next trial after those."""

    def run(self, budget: int) -> list[TrialRecord]:
        """So many trials, one after the other."""
        records: list[TrialRecord] = []
        while len(records) < budget:
            spec = self.ask(records)
            records.append(self.ground.record(len(records), spec, type(self).__name__))
        return records


class Random(Strategy):
    """Uniform over the space, nothing twice."""

    def __init__(self, ground: Ground, seed: int) -> None:
        super().__init__(ground, seed)
        self.info = ground.infos[0]
        self.rng = generator(seed, "random")

    def ask(self, records: Sequence[TrialRecord]) -> TrialSpec:
        """A random new configuration."""
        known = {record.spec.kv for record in records}
        while True:
            spec = self.grid.random(self.rng, self.info)
            if spec.kv not in known:
                return spec


class Seeded(Random):
    """The default configurations, then random ones."""

    def __init__(self, ground: Ground, seed: int) -> None:
        super().__init__(ground, seed)
        self.defaults = self.grid.defaults(self.info)

    def ask(self, records: Sequence[TrialRecord]) -> TrialSpec:
        """The next default, or a new configuration."""
        if len(records) < len(self.defaults):
            return self.defaults[len(records)]
        known = {record.spec.kv for record in records}
        for attempt in range(ATTEMPTS):
            spec = self.suggest(records, attempt)
            if spec.kv not in known:
                return spec
        return super().ask(records)

    def suggest(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:  # noqa: ARG002
        """What the sampler says; other attempts say other things."""
        return self.grid.random(self.rng, self.info)


class Tpe(Seeded):
    """Optuna's multi-objective TPE after the defaults: the control arm of a campaign, fed everything at once."""

    def __init__(self, ground: Ground, seed: int) -> None:
        super().__init__(ground, seed)
        self.study = ModelStudy(self.grid, self.info, SETTINGS, seed)

    def suggest(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:
        """What TPE says."""
        self.study.feed(records)
        return self.study.ask(len(records), attempt)


class Nsga2(Seeded):
    """Optuna's NSGA-II after the defaults, as it comes: asked and told through a study of its own."""

    def __init__(self, ground: Ground, seed: int) -> None:
        super().__init__(ground, seed)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.NSGAIISampler(seed=derive(seed, "nsga2"))
        self.study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self.asked: tuple[TrialSpec, optuna.Trial] | None = None
        self.told = 0

    def suggest(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:  # noqa: ARG002
        """What NSGA-II says; an answer that was not taken fails."""
        for record in records[self.told :]:
            self._tell(record)
        self.told = len(records)
        self._drop()
        trial = self.study.ask()
        self.asked = self.grid.suggest(trial, self.info), trial
        return self.asked[0]

    def _tell(self, record: TrialRecord) -> None:
        values = objectives(record)
        if values is None:
            return
        if self.asked is not None and self.asked[0].kv == record.spec.kv:
            (_, trial), self.asked = self.asked, None
        else:  # a default, or a random one in place of a repetition
            self._drop()
            self.study.enqueue_trial(self.grid.params(record.spec))
            trial = self.study.ask()
            self.grid.suggest(trial, self.info)
        trial.set_constraint("kld", values[0] - log10(SETTINGS.max_kld))
        trial.set_constraint("bits", values[1] - SETTINGS.max_bits)
        self.study.tell(trial, values)

    def _drop(self) -> None:
        import optuna

        if self.asked is not None:
            self.study.tell(self.asked[1], state=optuna.trial.TrialState.FAIL)
            self.asked = None


class Swarm(Strategy):
    """The strategy of built-in agents, on every model of the ground in turns."""

    def __init__(self, ground: Ground, seed: int) -> None:
        super().__init__(ground, seed)
        self.strategy = GenerationStrategy(self.grid, AnalysisEngine(ground.infos, SETTINGS), seed)

    def ask(self, records: Sequence[TrialRecord]) -> TrialSpec:
        """The strategy's proposal."""
        return self.strategy.propose(len(records), History.before(len(records), records, lag=0)).spec


STRATEGIES: Mapping[str, Callable[[Ground, int], Strategy]] = {
    "random": Random,
    "seeded random": Seeded,
    "TPE": Tpe,
    "NSGA-II": Nsga2,
    "agents": Swarm,
}
"""Strategies that see one model alone, by what they are called."""
