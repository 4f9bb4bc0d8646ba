"""Predicts what flags do to an engine from those that were tried, on any model, and proposes the most promising.

Gaussian processes over the flags, one for each number that counts: what one flag does alone is most of the
covariance, so that few trials say much about all combinations; which flags matter for a number is fitted. The
proposal has the largest expected improvement, times the probability of keeping to the limit on divergence: of the
seconds of a request, or of a weighting of speed and memory that differs from trial to trial (ParEGO,
doi:10.1109/TEVC.2005.851274).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from swarm.agents.analysis import engine_speed
from swarm.agents.analysis.pareto import is_search
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.experiments.space.engine_space import EngineSpace
from swarm.experiments.space.suggest import GivenTrial
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.memory.records import Proposal, TrialRecord

Floats = NDArray[np.float64]

MIN_TRIALS = 4
"""Measured trials of the model before anything is predicted."""
CANDIDATES = 600
"""Random flags that are weighed for one proposal."""
NEIGHBOURS_OF = 4
"""Best known flags whose neighbours, one flag apart, are candidates too."""
ALONE = 0.8
"""Share of the covariance that flags have each for themselves; the rest is of all together."""
ELSEWHERE = 0.6
"""Correlation of what the same flags do on another model."""
NOISE = {"rates": 0.15, "kld": 0.05}
"""Variance of the noise over that of the trials: clocks are noisier than divergences."""
LEVELS = (0.0, 1.0, 4.0)
"""Weights that a flag may have in the likeness of choices."""
ROUNDS = 2
MIN_KLD = 1e-6
WEIGHTS = (3.0, 1.5, 0.5)
"""How heavy decode rate, prefill rate and memory weigh on average."""
REQUEST_SHARE = 0.5
"""Share of proposals that are for the seconds of a request, by which trials are ranked."""


class FlagSampler(Sampler):
    """The flags from which a model of all trials expects most."""

    name = "flags"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """New flags; None in campaigns without an engine, and while too little is known."""
        space = context.space
        if not isinstance(space, EngineSpace):
            return None
        known = [r for r in context.history.completed if is_search(r) and engine_speed.objectives(r) is not None]
        own = [r for r in known if r.spec.model == context.model]
        if len(own) < MIN_TRIALS:
            return None
        pool = [spec for spec in _candidates(context, space, own) if context.is_new(spec)]
        if not pool:
            return None
        gains = _Fit.of(known, context).gains([_features(space, spec) for spec in pool], own, context)
        best = int(np.argmax(gains))
        why = f"Largest expected gain of {len(pool)} choices of flags, from {len(known)} trials."
        return Proposal(spec=pool[best], proposer=self.name, rationale=why)


def _features(space: EngineSpace, spec: TrialSpec) -> dict[str, object]:
    """Every flag with its value, those that the engine has by itself included."""
    assert spec.engine is not None
    by_itself: dict[str, object] = {flag.name: flag.values[0] for flag in space.flags(space.models[spec.model])}
    return by_itself | dict(spec.engine.flags)


def _candidates(context: ProposalContext, space: EngineSpace, own: Sequence[TrialRecord]) -> list[TrialSpec]:
    """Random flags, and those one flag away from the best known feasible ones; each once."""
    found = [space.random(context.rng, context.info) for _ in range(CANDIDATES)]
    feasible = [r for r in own if engine_speed.is_feasible(r, context.settings)]
    for record in sorted(feasible, key=engine_speed.request_seconds)[:NEIGHBOURS_OF]:
        named = space.params(record.spec)
        for flag in space.flags(context.info):
            for value in flag.values:
                # A flag that its neighbours close takes what the engine has by itself.
                given = {other.name: other.values[0] for other in space.flags(context.info)} | named
                try:
                    found.append(space.suggest(GivenTrial({**given, flag.name: value}), context.info))
                except SpecError:
                    continue
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Fit:
    """Trials on all models, with the numbers that are predicted, less the mean of their model."""

    rows: list[Mapping[str, object]]
    models: NDArray[np.str_]
    targets: Floats
    """log2 of seconds per generated token, per prompt token, of bytes, and ln of the divergence's upper limit."""
    model: str
    centre: Floats

    @classmethod
    def of(cls, known: Sequence[TrialRecord], context: ProposalContext) -> _Fit:
        space = context.space
        assert isinstance(space, EngineSpace)
        models = np.array([r.spec.model for r in known])
        targets = np.array([(*(engine_speed.objectives(r) or ()), _log_kld(r)) for r in known])
        centres = {name: targets[models == name].mean(0) for name in set(models)}
        targets = targets - np.array([centres[name] for name in models])
        return cls([_features(space, r.spec) for r in known], models, targets, context.model, centres[context.model])

    def gains(
        self, pool: Sequence[Mapping[str, object]], own: Sequence[TrialRecord], context: ProposalContext
    ) -> Floats:
        """Expected improvement of a weighting drawn for this trial, times the probability of being feasible."""
        from scipy.special import ndtr

        mean, deviation = self._predict(pool)
        feasible = engine_speed.best(own, context.settings)
        weights = context.rng.dirichlet(WEIGHTS)
        if feasible and context.rng.random() < REQUEST_SHARE:
            weights = _of_request(feasible[0])
        reached = [weights @ (np.array(engine_speed.objectives(r)) - self.centre[:3]) for r in feasible]
        value = mean[:, :3] @ weights
        spread = np.sqrt((deviation[:, :3] ** 2) @ weights**2)
        z = ((min(reached) if reached else 0.0) - value) / spread
        improvement = spread * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        allowed = ndtr((log(context.settings.max_kld) - self.centre[3] - mean[:, 3]) / deviation[:, 3])
        return np.asarray(improvement * allowed)

    def _predict(self, pool: Sequence[Mapping[str, object]]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of every target for every candidate."""
        from scipy.linalg import cho_factor, cho_solve

        same = np.where(self.models[:, None] == self.models[None, :], 1.0, ELSEWHERE)
        here = np.where(self.models == self.model, 1.0, ELSEWHERE)[None, :]
        names = sorted({name for row in (*self.rows, *pool) for name in row})
        known, asked = _agreement(self.rows, self.rows, names), _agreement(pool, self.rows, names)
        means, deviations = [], []
        for column, kind in zip(self.targets.T, ("rates", "rates", "rates", "kld"), strict=True):
            noise = NOISE[kind] * np.eye(len(column))
            weights = _weights(known, same, column, noise)
            factor = cho_factor(_likeness(known, weights) * same + noise, lower=True)
            amplitude = max(1e-6, float(column @ cho_solve(factor, column)) / len(column))
            reach = _likeness(asked, weights) * here
            left = 1.0 - np.einsum("ij,ji->i", reach, cho_solve(factor, reach.T))
            means.append(reach @ cho_solve(factor, column))
            deviations.append(np.sqrt(amplitude * np.maximum(left, 1e-6)))
        return np.array(means).T, np.array(deviations).T


def _of_request(record: TrialRecord) -> Floats:
    """Weights under which a small change counts as it changes the seconds of a request: the shares of its parts."""
    whole = engine_speed.request_seconds(record)
    answer = engine_speed.ANSWER_TOKENS / record.metrics["decode_rate"].value
    return np.array([answer / whole, 1.0 - answer / whole, 0.0])


def _agreement(a: Sequence[Mapping[str, object]], b: Sequence[Mapping[str, object]], names: Sequence[str]) -> Floats:
    """Which flags agree between two lists of choices: [flags, choices of a, choices of b]."""
    codes = [np.array([[hash(row.get(name)) for row in rows] for name in names]) for rows in (a, b)]
    return np.asarray(codes[0][:, :, None] == codes[1][:, None, :], dtype=np.float64)


def _likeness(agreement: Floats, weights: Floats) -> Floats:
    """Correlation of choices of flags: the weighted share that agrees, and what falls with each that does not."""
    agree = np.tensordot(weights / weights.sum(), agreement, 1)
    return np.asarray(ALONE * agree + (1 - ALONE) * np.exp(-(1.0 - agree) * len(weights) / 2))


def _weights(known: Floats, same: Floats, column: Floats, noise: Floats) -> Floats:
    """How much each flag matters for a number: one of `LEVELS`, chosen flag by flag by the likelihood of the data."""
    weights = np.ones(len(known))
    for _ in range(ROUNDS):
        for flag in range(len(known)):
            tried = [np.where(np.arange(len(known)) == flag, level, weights) for level in LEVELS]
            fits = [_log_likelihood(_likeness(known, one) * same + noise, column) for one in tried if one.any()]
            weights = [one for one in tried if one.any()][int(np.argmax(fits))]
    return weights


def _log_likelihood(covariance: Floats, column: Floats) -> float:
    """Of data under a covariance whose amplitude fits best, constants left out."""
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(covariance, lower=True)
    amplitude = float(column @ cho_solve(factor, column)) / len(column)
    return -0.5 * len(column) * log(amplitude + 1e-12) - float(np.log(np.diag(factor[0])).sum())


def _log_kld(record: TrialRecord) -> float:
    upper = record.metrics.get("kld_upper")
    return log(max(upper.value, MIN_KLD)) if upper is not None else log(MIN_KLD)
