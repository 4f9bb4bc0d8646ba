"""What the search space is asked and told through when Optuna stands behind it. Knows samplers and distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swarm.experiments.space.suggest import GivenTrial

if TYPE_CHECKING:
    import optuna


class Told(GivenTrial):
    """Given values that are remembered with the distributions that they belong to, as far as they are asked for."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given value."""
        from optuna.distributions import CategoricalDistribution

        self.distributions[name] = CategoricalDistribution(tuple(choices))
        self.params[name] = super().suggest_categorical(name, choices)
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The given value."""
        from optuna.distributions import IntDistribution

        self.distributions[name] = IntDistribution(low, high)
        self.params[name] = super().suggest_int(name, low, high)
        return int(self.params[name])


class Asked:
    """Values that a sampler gives one by one, for a trial that is in no study: `Study.ask` would leave it there."""

    def __init__(self, name: str, storage: optuna.storages.BaseStorage, sampler: optuna.samplers.BaseSampler) -> None:
        import optuna

        # A view of its own, as a study remembers the trials that it saw until it is asked for one.
        self._study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        self._sampler = sampler
        self._trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        from optuna.distributions import CategoricalDistribution

        if len(choices) == 1:
            return choices[0]
        distribution = CategoricalDistribution(tuple(choices))
        return self._sampler.sample_independent(self._study, self._trial, name, distribution)

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        from optuna.distributions import IntDistribution

        if low == high:
            return low
        return int(self._sampler.sample_independent(self._study, self._trial, name, IntDistribution(low, high)))
