"""How large an error each configuration makes on each model, with all that is uncertain about it.

A hierarchical model of the logarithm of a metric, per text window:

    level of the model + effect of the configuration there + effect of the window + rest.

Effects of configurations are a Gaussian process over what configurations are made of; the more alike models are, the
more of an effect they share. A window is about as hard for one configuration as for the others, and the rest, what is
particular to a configuration on a window, is much the same for configurations like it: however many configurations were
tried on four windows, what other windows would say stays as uncertain as four windows leave it.
Estimates are shrunk towards what similar configurations say: the best of many noisy results would else look better than
it is (the winner's curse).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from swarm.agents.analysis.likeness import Distances, Features, Floats, features
from swarm.agents.analysis.posterior import MOST_DF, Posterior, degrees
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.spreads import FLOOR, spreads
from swarm.kernels.spec import KVSpec

MEAN_VARIANCE = 25.0
"""Of what all models have in common: as good as nothing is known about it."""
LEVEL_PRIOR = (0.35, 3.0)
"""Variance of the levels of models that is assumed before anything is measured, and how many models that is worth:
those of the bundled ones lie 0.4 to 1 apart."""
REST_SHARED = 0.6
"""Share of the rest that configurations have in common as far as they are alike. Recorded on the bundled models: the
correlation grows in proportion to the likeness (of the shortest length below), to 0.5 to 0.75 where it is 1."""
SEED_VARIANCE = 0.013
"""Of a rotated configuration over seeds, which draw rotations; seven seeds on smollm2-135m and gemma3-270m said so."""

LENGTHS = (2.0, 4.0, 8.0)
"""How far an effect may carry to other configurations."""
PRIOR = ((2.0, 1.0), (2.3, 1.0), (-4.0, 1.0))
"""Mean and standard deviation of ln variance, logit of the likeness of models, logit of `LevelCovariance.own`. The same
configurations on two of the bundled models correlate by 0.85 to 0.96."""
ODDITY_SD = 2.0
"""Of the logarithm of how much more or less than the others a model differs from them: one of three recorded ones
does so five times as much as the least (as variances)."""

Place = tuple[str, KVSpec]
"""A model and a configuration on it."""


class Levels:
    """Results of one metric on several models, and what they say of each other.

    Args:
        results: what was measured, one per model and configuration, on comparable texts, contexts and rungs.
        layers: how many layers each model has, those without results included.
    """

    def __init__(self, results: Sequence[ConfigResult], layers: Mapping[str, int]) -> None:
        self._layers = layers
        self._places: list[Place] = [(r.model, r.spec.kv) for r in results]
        self._features = self._described(self._places)
        values = [np.mean([max(v, FLOOR) for v in r.samples().values()]) for r in results]
        self._centre = float(np.mean(values)) if results else -3.0
        self._values = np.array(values) - self._centre
        self._spreads = spreads(results, layers)
        seen = {(r.model, window) for r in results for window in r.samples()}
        self._windows = sorted(seen)
        column = {window: k for k, window in enumerate(self._windows)}
        self._share = np.zeros((len(results), len(seen)))
        for row, r in enumerate(results):
            for window in r.samples():
                self._share[row, column[r.model, window]] = 1 / len(r.samples())
        self._rest = np.array([self._spreads[r.model].rest for r in results])
        self._of_seeds = np.array([SEED_VARIANCE * _is_rotated(r.spec.kv) / len(_seeds(r)) for r in results])

    def at(self, model: str, pool: Sequence[KVSpec]) -> Posterior:
        """What to expect of configurations on a model, measured there or not."""
        from scipy.linalg import cho_solve

        fit, spread = self._fit, self._spreads[model]
        asked: list[Place] = [(model, kv) for kv in pool]
        own = [k for k, (name, _) in enumerate(self._windows) if name == model]
        n, size = len(pool), len(pool) + 1 + len(own)
        prior = np.zeros((size, size))
        prior[:n, :n] = fit.covariance(self._apart(asked, asked))
        prior[n, : n + 1] = prior[: n + 1, n] = fit.level
        prior[n + 1 :, n + 1 :] = spread.windows * np.eye(len(own))
        cross = np.zeros((size, len(self._places)))
        if self._places:
            cross[:n] = fit.covariance(self._apart(asked, self._places))
            cross[n] = [fit.level * (name == model) for name, _ in self._places]
            cross[n + 1 :] = spread.windows * self._share[:, own].T
        mean, covariance = np.zeros(size), prior
        if self._places:
            mean = cross @ cho_solve(fit.factor, self._values)
            covariance = prior - cross @ cho_solve(fit.factor, cross.T)
        models = max(1, len({name for name, _ in self._places})) - 1 + LEVEL_PRIOR[1]
        own_results = sum(name == model for name, _ in self._places)
        df = degrees(covariance, n, spread.df, models, min(MOST_DF, models + own_results))
        windows = tuple(self._windows[k][1] for k in own)
        return Posterior(mean[:n] + self._centre, covariance, windows, df, spread)

    @cached_property
    def _fit(self) -> LevelCovariance:
        """The covariance under which the results are likeliest, given what is assumed of it."""
        from scipy.optimize import minimize

        models = tuple(dict.fromkeys(model for model, _ in self._places))
        start = np.array([*(mean for mean, _ in PRIOR), log(LEVEL_PRIOR[0]), *(0.0 for _ in models)])
        if not models:
            return LevelCovariance.of(start, LENGTHS[0], ())
        apart = self._apart(self._places, self._places)
        noise = self._noise(apart)
        of_model = [np.array([name == model for name, _ in self._places]) for model in models]
        fits = []
        for length in LENGTHS:
            alike = apart.distances.covariance(length, 1.0)

            def loss(x: Floats, length: float = length, alike: Floats = alike) -> tuple[float, Floats]:
                return _badness(LevelCovariance.of(x, length, models), alike, apart, of_model, noise, self._values)

            bounds = [(x - 4, x + 4) for x in start]
            found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40})
            fits.append((float(found.fun), LevelCovariance.of(found.x, length, models)))
        return min(fits, key=lambda fit: fit[0])[1].on(apart, noise)

    def _noise(self, apart: Apart) -> Floats:
        """Covariance of what windows and seeds do to the results: effects of windows, and the rest on shared ones."""
        variances = np.array([self._spreads[name].windows for name, _ in self._windows])
        alike = apart.distances.covariance(LENGTHS[0], 1.0)
        rest = np.sqrt(np.outer(self._rest, self._rest)) * (
            REST_SHARED * alike + (1 - REST_SHARED) * np.eye(len(alike))
        )
        shared = self._share @ self._share.T
        return np.asarray((self._share * variances) @ self._share.T + shared * rest + np.diag(self._of_seeds))

    def _described(self, places: Sequence[Place]) -> tuple[Features, Features, Features]:
        return features([(kv, self._layers[model]) for model, kv in places])

    def _apart(self, a: Sequence[Place], b: Sequence[Place]) -> Apart:
        one, other = (self._features if places is self._places else self._described(places) for places in (a, b))
        names = [model for model, _ in a], [model for model, _ in b]
        places = {kv: k for k, kv in enumerate(dict.fromkeys(kv for _, kv in (*a, *b)))}
        left, right = (np.array([places[kv] for _, kv in side]) for side in (a, b))
        return Apart(Distances(one, other, *names), names, left[:, None] == right[None, :])


@dataclass(frozen=True)
class Apart:
    """How some places lie to others: the distance of the configurations, and which are the same."""

    distances: Distances
    models: tuple[list[str], list[str]]
    same_kv: NDArray[np.bool_]

    @cached_property
    def same_model(self) -> NDArray[np.bool_]:
        """Whether the models are the same."""
        a, b = map(np.array, self.models)
        return np.asarray(a[:, None] == b[None, :])


@dataclass(frozen=True)
class LevelCovariance:
    """A covariance of levels.

    Attributes:
        amplitude: variance of an effect of a configuration that models share, and of their deviations.
        length: how far it carries to other configurations.
        likeness: share of it that all models have in common.
        own: share of an effect that no other configuration has.
        level: variance of the levels of models.
        oddity: how much more than the others each model deviates, a factor on the variance.
        factor: Cholesky factor of the covariance of the results with their noise, as scipy has it.
    """

    amplitude: float
    length: float
    likeness: float
    own: float
    level: float
    oddity: Mapping[str, float]
    factor: tuple[Floats, bool] = (np.zeros((0, 0)), True)

    @classmethod
    def of(cls, x: Floats, length: float, models: Sequence[str]) -> LevelCovariance:
        """The covariance of some parameters: those of `PRIOR`, ln `level`, ln `oddity` of each model."""
        amplitude, likeness, own, level, *oddity = (float(value) for value in x)
        odd = {model: exp(value) for model, value in zip(models, oddity, strict=True)}
        return cls(exp(amplitude), length, _share(likeness), _share(own), exp(level), odd)

    def on(self, apart: Apart, noise: Floats) -> LevelCovariance:
        """With the factor of its covariance at the places of some results."""
        from scipy.linalg import cho_factor

        return replace(self, factor=cho_factor(self.covariance(apart) + noise, lower=True))

    def covariance(self, apart: Apart) -> Floats:
        """Of the levels at some places with those at others."""
        effects = self.effects(apart.distances.covariance(self.length, 1.0), apart)
        return np.asarray(MEAN_VARIANCE + self.level * apart.same_model + self.amplitude * self.alike(apart) * effects)

    def effects(self, alike: Floats, apart: Apart) -> Floats:
        """Correlation of the effects of configurations on one model."""
        return np.asarray((1 - self.own) * alike + self.own * apart.same_kv)

    def alike(self, apart: Apart) -> Floats:
        """What models have in common; a model that was not measured is taken to be as odd as the others."""
        unknown = max(1.0, float(np.mean(list(self.oddity.values()) or [1.0])))
        odd = np.array([self.oddity.get(model, unknown) for model in apart.models[0]])
        return np.asarray(self.likeness + (1 - self.likeness) * odd[:, None] * apart.same_model)


def _badness(
    fit: LevelCovariance,
    alike: Floats,
    apart: Apart,
    of_model: Sequence[NDArray[np.bool_]],
    noise: Floats,
    values: Floats,
) -> tuple[float, Floats]:
    """Negative logarithm of how likely results and a covariance are, but for a constant, and its gradient."""
    from scipy.linalg import cho_solve

    factor = fit.on(apart, noise).factor
    solved = cho_solve(factor, values)
    inverse = cho_solve(factor, np.eye(len(values)))
    pull = 0.5 * (inverse - np.outer(solved, solved))
    effects, models = fit.effects(alike, apart), fit.alike(apart)
    share, own = fit.likeness * (1 - fit.likeness), fit.own * (1 - fit.own)
    odd = (models - fit.likeness) / (1 - fit.likeness)
    slopes = [
        fit.amplitude * models * effects,
        fit.amplitude * share * (1 - odd) * effects,
        fit.amplitude * models * own * (apart.same_kv - alike),
        fit.level * apart.same_model,
    ]
    gradient = [float((pull * slope).sum()) for slope in slopes]
    deviations = pull * (fit.amplitude * (1 - fit.likeness) * odd * effects)
    gradient += [float(deviations[np.ix_(rows, rows)].sum()) for rows in of_model]
    loss = 0.5 * float(values @ solved) + float(np.log(np.diag(factor[0])).sum())
    variance, worth = LEVEL_PRIOR
    loss += worth / 2 * (log(fit.level) + variance / fit.level)
    gradient[3] += worth / 2 * (1 - variance / fit.level)
    free = [log(fit.amplitude), _logit(fit.likeness), _logit(fit.own), 0.0, *(log(o) for o in fit.oddity.values())]
    priors = [*PRIOR, (0.0, np.inf), *((0.0, ODDITY_SD) for _ in fit.oddity)]
    for k, (x, (mean, sd)) in enumerate(zip(free, priors, strict=True)):
        loss += 0.5 * ((x - mean) / sd) ** 2
        gradient[k] += (x - mean) / sd**2
    return loss, np.array(gradient)


def _is_rotated(kv: KVSpec) -> bool:
    return any(side.rotation != "none" for side in (kv.key, kv.value))


def _seeds(result: ConfigResult) -> set[int]:
    return {record.spec.seed for record in result.records}


def _share(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def _logit(share: float) -> float:
    return log(share / (1 - share))
