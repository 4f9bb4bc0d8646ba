"""Predicts every configuration from those that are like it, on any model, and proposes the most promising one.

A Gaussian process over what a configuration is made of. Keys, values and everything else enter as factors of the
covariance, so that what one trial says of its keys counts for all configurations with such keys; trials on other
models count as far as the data say that the models are alike. The proposal has the largest expected gain of
hypervolume (EHVI, in closed form for two objectives of which one is as good as known).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from swarm.agents.analysis.likeness import Distances, Floats, features
from swarm.agents.analysis.pareto import LOWEST, box, is_search, objectives
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.agents.settings import AgentSettings
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.front import Point, pareto_front
from swarm.memory.records import Proposal

MIN_TRIALS = 8
"""Measured configurations of the model before anything is predicted."""
MAX_TRIALS = 400
"""Trials that are read, the latest: the cost grows with their cube."""
CANDIDATES = 1_500
"""Changes of random configurations and of the best known that are weighed for one proposal."""
STARTS = 12
"""Random configurations, and as many of the better known ones, that candidates start from."""
SHOTS = 12
"""Best candidates that are tried before giving up: some are not valid, some not new."""
LENGTHS = (1.0, 2.0, 4.0)
LIKENESS = (0.0, 0.5, 0.9)
"""How alike two models may be: correlation of the same configuration."""
NOISE = 0.02


class GaussianProcessSampler(Sampler):
    """The configuration from which a model of all results expects most."""

    name = "surrogate"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A new configuration; None while too little is known, or when nothing promising is new."""
        known = Known.of(context)
        if known is None:
            return None
        pool, template = candidates(context), context.templates[context.model].model_dump()
        gains = expected_gain(known.points, *known.predict(pool), context.settings)
        for place in np.argsort(-gains, kind="stable")[:SHOTS]:
            kv = pool[int(place)].model_dump()
            spec = context.validated(template | {"kv": kv}) if gains[place] > 0 else None
            if spec is not None:
                why = f"Largest expected gain of {len(pool)} candidates, from {len(known.level)} trials on all models."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


def candidates(context: ProposalContext) -> list[KVSpec]:
    """Random configurations and the best known ones, many with other keys or values; not all of them are valid."""
    info, rng = context.info, context.rng
    keys, values = ([spec for name in side.methods for spec in side.specs(name)] for side in context.space.sides(info))
    known = [r for r in context.history.select(model=context.model, protocol="quality") if not r.spec.rung]
    best = sorted(known, key=lambda r: (objectives(r) or (np.inf,))[0])[: len(known) // 2 + 1]
    starts = [context.space.random(rng, info).kv for _ in range(STARTS)]
    starts += [best[int(i)].spec.kv for i in rng.integers(len(best), size=STARTS)]
    sizes = len(starts), len(keys), len(values), 4
    found = []
    for start, key, value, change in zip(*(rng.integers(size, size=CANDIDATES) for size in sizes), strict=True):
        kv = starts[start]
        sides = keys[key] if change != 1 else kv.key, values[value] if change != 2 else kv.value
        if (sides[0].method, sides[1].method) == ("none", "none"):
            continue
        if sides != (kv.key, kv.value):
            kv = kv.model_copy(update={"key": sides[0], "value": sides[1], "overrides": ()})
        found.append(kv)
    return found


@dataclass(frozen=True)
class Known:
    """Measured trials on all models, as a Gaussian process needs them, and the results on the model in question."""

    context: ProposalContext
    pool: list[TrialSpec]
    level: Floats
    """log10 KLD less the mean of its model, over the standard deviation of all."""
    bits: Floats
    scale: tuple[float, float]
    """Mean log10 KLD of the model in question, and that standard deviation."""
    points: Sequence[Point]

    @classmethod
    def of(cls, context: ProposalContext) -> Known | None:
        """The latest trials; None while too few are of the context's model."""
        latest = [
            (record.spec, (max(found[0], LOWEST), found[1]))
            for record in reversed(context.history.records)
            if is_search(record) and not record.spec.kv.key.method == record.spec.kv.value.method == "none"
            if (found := objectives(record)) is not None
        ][:MAX_TRIALS]
        pool = [spec for spec, _ in latest]
        names = np.array([spec.model for spec in pool])
        own = names == context.model
        if own.sum() < MIN_TRIALS:
            return None
        values, bits = np.array([point for _, point in latest]).T
        level = values.copy()
        for name in set(names):
            level[names == name] -= values[names == name].mean()
        spread = float(level.std()) or 1.0
        points = [point for spec, point in latest if spec.model == context.model]
        return cls(context, pool, level / spread, bits, (float(values[own].mean()), spread), points)

    def predict(self, pool: Sequence[KVSpec]) -> tuple[Floats, Floats, Floats]:
        """Mean and standard deviation of log10 KLD on the model in question, and bits/value, of candidates."""
        from scipy.linalg import cho_solve

        layers = {name: info.n_layers for name, info in self.context.infos.items()}
        known = features([(spec.kv, layers[spec.model]) for spec in self.pool])
        asked = features([(kv, self.context.info.n_layers) for kv in pool])
        models = [spec.model for spec in self.pool]
        own = Distances(known, known, models, models)
        cross = Distances(asked, known, [self.context.model] * len(pool), models)
        likeness = LIKENESS if len(set(models)) > 1 else (0.0,)
        fits = [_fit(own, self.level, *choice) for choice in itertools.product(LENGTHS, likeness)]
        best = max(fits, key=lambda fit: fit.likelihood)
        reach = cross.covariance(best.length, best.likeness)
        mean = reach @ cho_solve(best.factor, self.level)
        left = 1.0 - np.einsum("ij,ji->i", reach, cho_solve(best.factor, reach.T))
        variance = best.amplitude * np.maximum(1e-6, left)
        centre, spread = self.scale
        # Cost follows from the configuration alone, whatever the model: one likeness, and as good as no noise.
        middle = self.bits.mean()
        cost = _fit(own, self.bits - middle, max(LENGTHS), 0.99, 1e-4)
        bits = middle + cross.covariance(cost.length, 0.99) @ cho_solve(cost.factor, self.bits - middle)
        return centre + spread * mean, spread * np.sqrt(variance), bits


class Fit(NamedTuple):
    """A Gaussian process of one covariance: how likely it makes the data, and what predictions need."""

    likelihood: float
    length: float
    likeness: float
    factor: tuple[Floats, bool]
    """Cholesky factor of the covariance with its noise, as scipy has it."""
    amplitude: float
    """Variance that makes the data likeliest."""


def _fit(own: Distances, level: Floats, length: float, likeness: float, noise: float = NOISE) -> Fit:
    from scipy.linalg import cho_factor, cho_solve

    covariance = own.covariance(length, likeness)
    covariance[np.diag_indices_from(covariance)] += noise
    factor = cho_factor(covariance, lower=True)
    amplitude = float(level @ cho_solve(factor, level)) / len(level)
    likelihood = -0.5 * len(level) * np.log(amplitude + 1e-12) - float(np.log(np.diag(factor[0])).sum())
    return Fit(likelihood, length, likeness, factor, amplitude)


def expected_gain(
    known: Sequence[Point], mean: Floats, deviation: Floats, bits: Floats, settings: AgentSettings
) -> Floats:
    """Expected hypervolume that each candidate adds to what is known.

    Args:
        known: measured (log10 KLD, bits/value).
        mean: log10 KLD to expect of each candidate.
        deviation: its standard deviation.
        bits: bits/value of each candidate.
        settings: the feasible region.
    """
    from scipy.special import ndtr

    (worst, most), _ = box(settings)
    inside = [(v, b) for v, b in known if v < worst and b < most]
    steps = [inside[i] for i in pareto_front(inside)]
    # Between two costs of the front, what a candidate must beat is constant.
    costs = np.array([0.0, *(b for _, b in steps), most])
    reached = np.array([worst, *(v for v, _ in steps)])
    z = (reached[None, :] - mean[:, None]) / deviation[:, None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement = deviation[:, None] * (z * ndtr(z) + density)
    widths = np.clip(costs[None, 1:] - np.maximum(costs[None, :-1], bits[:, None]), 0.0, None)
    return np.asarray((improvement * widths).sum(axis=1))
