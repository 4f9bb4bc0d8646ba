"""One Optuna study of one model, in memory: rebuilt from the history, asked for the next configuration.

The store is the truth: a study is thrown away and replayed whenever the history is not a continuation of what it has
seen.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.agents.analysis.pareto import excess, is_search, objectives
from swarm.agents.generation.context import derive, generator
from swarm.agents.history import OWN_FAULT
from swarm.agents.settings import AgentSettings
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.memory.front import pareto_front
from swarm.memory.records import TrialRecord

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.space.search_space import Space

STARTUP_TRIALS = 10
STEP = 200
"""Beyond twice as many trials, all but the latest are thinned to so many: an ask costs TPE time for each it reads."""
BEST = 50
"""Of those, how many are the best; the others are drawn at random, so that what is bad keeps its density."""
RECENT = 50
"""Trials that are never thinned: the last ones may still run."""
_WARNING_FILTERS = threading.Lock()
"""Held while warnings are filtered: the filters belong to the process, and two threads would restore each other's."""


class SampledParams:
    """Values that a sampler gives one by one, for a trial that is in no study: `Study.ask` would leave it there."""

    def __init__(self, study: Study, storage: BaseStorage, sampler: BaseSampler) -> None:
        import optuna

        # A view of its own, as a study remembers the trials that it saw until it is asked for one.
        self._study = optuna.load_study(study_name=study.study_name, storage=storage, sampler=sampler)
        self._sampler = sampler
        self._trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        from optuna.distributions import CategoricalDistribution

        return self._sampled(name, CategoricalDistribution(tuple(choices)), choices[0])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        from optuna.distributions import IntDistribution

        return int(self._sampled(name, IntDistribution(low, high), low))

    def _sampled(self, name: str, distribution: BaseDistribution, first: Any) -> Any:
        """The sampler's value; where there is only one, the sampler is not asked."""
        if distribution.single():
            return first
        return self._sampler.sample_independent(self._study, self._trial, name, distribution)


class ModelStudy:
    """Multi-objective TPE over the configurations of one model: log10 KLD and bits/value, or what engines are good for.

    Optuna's `TPESampler` (arXiv 2304.11127) with constraints for the feasible region. Every ask gets a sampler of
    its own, seeded by campaign seed and trial number, so that the answer is a pure function of seed, number and the
    trials fed so far.

    Args:
        space: the search space.
        info: the model.
        settings: the feasible region.
        seed: seed of the campaign.
    """

    def __init__(self, space: Space, info: ModelInfo, settings: AgentSettings, seed: int) -> None:
        self._space = space
        self._info = info
        self._settings = settings
        self._seed = seed
        self._chosen: dict[int, list[int]] = {}
        self._empty()

    def _empty(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._fed: dict[int, tuple[str, int | None]] = {}
        self._storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(directions=["minimize"] * self._space.objectives, storage=self._storage)
        """The Optuna study with everything fed so far."""

    def sampler(self, *path: int) -> BaseSampler:
        """The sampler of one ask, seeded by the campaign's seed and the path."""
        from swarm.agents.samplers.optuna_bridge.one_trial_tpe import OneTrialTPE

        return OneTrialTPE(seed=derive(self._seed, *path), n_startup_trials=STARTUP_TRIALS)

    def feed(self, records: Iterable[TrialRecord]) -> None:
        """Bring the study up to date with the trials of this model, in order; running ones count as pending."""
        wanted = self._thinned([r for r in records if self.belongs(r)])
        if not self._continues(wanted):
            self._empty()
        for record in wanted:
            state, number = self._fed.get(record.number, ("", None))
            if not state:
                number = self._enter(record)
            if number is not None and state in ("", "running") and record.state != "running":
                self._finish(number, record)
            self._fed[record.number] = (record.state, number)

    def belongs(self, record: TrialRecord) -> bool:
        """Whether the study reads this trial: a first look at a configuration of its model."""
        return record.spec.model == self._info.name and is_search(record)

    def _thinned(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """What the sampler reads of many trials; the choice changes every `STEP` trials."""
        old = max(0, len(records) - RECENT) // STEP * STEP
        if old < 2 * STEP:
            return records
        state = hash(tuple((r.number, r.state) for r in records[:old]))
        if state not in self._chosen:
            self._chosen = {state: self._choice(records[:old])}
        return [*(records[i] for i in self._chosen[state]), *records[old:]]

    def _choice(self, records: list[TrialRecord]) -> list[int]:
        """Places of the best by Pareto rank, and of a random sample of the others."""
        points = {i: found for i, r in enumerate(records) if (found := objectives(r)) is not None}
        best: list[int] = []
        while points and len(best) < BEST:
            left = list(points)
            layer = [left[k] for k in pareto_front([points[i] for i in left])]
            best += layer[: BEST - len(best)]
            for i in layer:
                del points[i]
        others = sorted(set(range(len(records))) - set(best))
        drawn = generator(self._seed, "thin", len(records)).choice(others, STEP - len(best), replace=False)
        return sorted([*best, *map(int, drawn)])

    def _continues(self, wanted: list[TrialRecord]) -> bool:
        now = {r.number: r.state for r in wanted}
        known = list(self._fed.items())
        settled = all(number in now and state in ("running", now[number]) for number, (state, _) in known)
        return settled and list(now)[: len(known)] == list(self._fed)

    def _enter(self, record: TrialRecord) -> int | None:
        """Add a trial with the parameters of its specification; its number, None when the space cannot express it."""
        import optuna

        try:
            given = optuna.trial.FixedTrial(self._space.params(record.spec))
        except SpecError:
            return None
        self._space.suggest(given, self._info, self._space.protocol_searched)
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=given.params, distributions=given.distributions
        )
        self.study.add_trial(running)
        return sum(number is not None for _, number in self._fed.values())

    def _finish(self, number: int, record: TrialRecord) -> None:
        import optuna

        values = objectives(record)
        if values is not None:
            # What is kept needs no constraint: Optuna reads every one of every trial several times per ask.
            over = excess(record, values, self._settings)
            self._constrain(number, {name: by for name, by in over.items() if by > 0})
            self.study.tell(number, values)
        elif record.outcome in OWN_FAULT:
            # The configuration's own fault: pruned and infeasible, so that the sampler keeps away from it.
            self._constrain(number, {"failed": 1.0})
            self.study.tell(number, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _constrain(self, number: int, beyond: Mapping[str, float]) -> None:
        import optuna

        # The ids of a storage that holds one study are the numbers of its trials.
        for name, over in beyond.items():
            optuna.Trial(self.study, number).set_constraint(name, over)

    def ask(self, number: int, attempt: int = 0) -> TrialSpec:
        """The sampler's configuration for a trial number; other attempts give other answers.

        Nothing stays behind: what was asked counts only when it comes back as a record.
        """
        params = SampledParams(self.study, self._storage, self.sampler(number, 1, attempt))
        return self._space.suggest(params, self._info, self._space.protocol_searched)

    def importances(self, least: int = 8) -> dict[str, float]:
        """Optuna's importance of each parameter for log KLD beyond what its bits explain; they sum to 1.

        PED-ANOVA (arXiv 2304.10255): what sets the best tenth apart from all. Empty for fewer than `least` completed
        trials.
        """
        import optuna

        done = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if len(done) < least:
            return {}
        slope, level = np.polyfit([t.values[1] for t in done], [t.values[0] for t in done], 1)
        with _WARNING_FILTERS, warnings.catch_warnings():
            # Optuna warns of few trials, and that low values are the good ones.
            warnings.simplefilter("ignore", UserWarning)
            found = optuna.importance.get_param_importances(
                self.study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda t: float(t.values[0] - level - slope * t.values[1]),
            )
        return {name: float(value) for name, value in found.items() if isfinite(value)}
