"""Optuna's TPE for one trial. It sorts all trials into good and bad again for every parameter; here it does so once.

Same answers, as every parameter of a trial is asked for over the same trials. Knows Optuna's inner names, so the
version of Optuna is held; a test compares it with Optuna's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_READ = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""Running trials count as bad ones, as Optuna's "constant liar" has it: nobody else shall be sent where they are."""


class OneTrialTPE(TPESampler):
    """`TPESampler` for several objectives, to be asked about one trial only.

    Source: arXiv 2304.11127; Optuna's `TPESampler._sample`. What it saves is in docs/benchmarks/overhead.md.
    """

    _parts: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None

    def _sample(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        if self._parts is None:
            trials = study._get_trials(deepcopy=False, states=_READ, use_cache=True)
            trials = [other for other in trials if other.number != trial.number]
            ended = sum(other.state != TrialState.RUNNING for other in trials)
            self._parts = _split_trials(study, trials, default_gamma_multiobjective(ended))
        below, above = self._parts
        good = self._build_parzen_estimator(study, search_space, below, handle_below=True)
        bad = self._build_parzen_estimator(study, search_space, above, handle_below=False)
        candidates = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(candidates, self._compute_acquisition_func(candidates, good, bad))
        return {name: kind.to_external_repr(best[name]) for name, kind in search_space.items()}
