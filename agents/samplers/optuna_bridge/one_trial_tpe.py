"""Optuna's TPE for one trial. It sorts all trials into good and bad again for every parameter; here it does so once.

The answers are the same, as every parameter of a trial is asked for over the same trials. This needs names that
Optuna keeps to itself: `_sample`, `_rng` and `_build_parzen_estimator` of its sampler, and `_split_trials`. Tests
compare the answers with Optuna's own sampler and hold the names to what they are, release by release.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

READ = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""Running trials count as bad ones, as Optuna's "constant liar" has it: nobody else shall be sent where they are."""

GOOD = 0.1
"""Share of the ended trials that count as good; Optuna's own for several objectives."""

CANDIDATES = 24
"""Values that are compared for a parameter; Optuna's own number."""


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
            trials = study.get_trials(deepcopy=False, states=READ)
            trials = [other for other in trials if other.number != trial.number]
            ended = sum(other.state != TrialState.RUNNING for other in trials)
            self._parts = _split_trials(study, trials, ceil(GOOD * ended))
        good, bad = (
            self._build_parzen_estimator(study, search_space, part, handle_below=below)
            for part, below in zip(self._parts, (True, False), strict=True)
        )
        candidates = good.sample(self._rng.rng, CANDIDATES)
        best = int(np.argmax(good.log_pdf(candidates) - bad.log_pdf(candidates)))
        return {name: kind.to_external_repr(candidates[name][best].item()) for name, kind in search_space.items()}
