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
from math import log2

import numpy as np
from numpy.typing import NDArray

from swarm.agents.analysis.pareto import front
from swarm.agents.generation.bandit import LOWEST, box
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Proposer
from swarm.agents.samplers.optuna_bridge.study import objectives
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import QuantSpec
from swarm.memory.records import Proposal, TrialRecord

Floats = NDArray[np.float64]

LEAST = 8
"""Measured configurations of the model before anything is predicted."""
MOST = 400
"""Trials that are read, the latest: the cost grows with their cube."""
CANDIDATES = 1_500
TEMPLATES = 12
SHOTS = 12
"""Best candidates that are tried before giving up: some are not lawful, some not new."""
LENGTHS = (1.0, 2.0, 4.0)
LIKENESS = (0.0, 0.5, 0.9)
"""How alike two models may be: correlation of the same configuration."""
NOISE = 0.02


class Surrogate(Proposer):
    """The configuration from which a model of all results expects most."""

    name = "surrogate"
    summary = "the largest expected gain under a Gaussian process over all models' trials"

    def propose(self, model: str, context: ProposalContext) -> Proposal | None:
        """A new configuration; None while too little is known, or when nothing promising is new."""
        data = _Data.of(model, context)
        if data is None:
            return None
        pool = _candidates(model, context)
        gains = _gain(data.front, *_predict(data, _features(pool, context, model)), context)
        for place in np.argsort(-gains, kind="stable")[:SHOTS]:
            spec = pool[int(place)].build()
            if gains[place] > 0 and spec is not None and context.expresses(spec) and context.is_new(spec):
                why = f"Largest expected gain of {len(pool)} candidates, from {len(data.level)} trials on all models."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


@dataclass(frozen=True)
class _Candidate:
    """A known or random trial, with other keys or values."""

    template: TrialSpec
    key: QuantSpec
    value: QuantSpec

    def build(self) -> TrialSpec | None:
        """The specification, if it is lawful."""
        from pydantic import ValidationError

        from swarm.kernels.errors import SwarmError

        data = self.template.model_dump()
        data["kv"] |= {"key": self.key.model_dump(), "value": self.value.model_dump()}
        if (self.key, self.value) != (self.template.kv.key, self.template.kv.value):
            data["kv"]["overrides"] = ()
        try:
            return TrialSpec.model_validate(data)
        except (ValidationError, SwarmError):
            return None


@dataclass(frozen=True)
class _Data:
    """What is known: features and standardised results of trials on all models; the front of the one in question."""

    features: _Features
    level: Floats
    bits: Floats
    scale: tuple[float, float]
    front: Floats

    @classmethod
    def of(cls, model: str, context: ProposalContext) -> _Data | None:
        """The latest trials; None while too few are of this model."""
        records, points = _measured(context)
        own = [place for place, record in enumerate(records) if record.spec.model == model]
        if len(own) < LEAST:
            return None
        values, bits = np.array(points).T
        names = np.array([record.spec.model for record in records])
        level = values.copy()
        for name in set(names):
            level[names == name] -= values[names == name].mean()
        spread = float(level.std()) or 1.0
        pool = [_Candidate(record.spec, record.spec.kv.key, record.spec.kv.value) for record in records]
        return cls(
            _features(pool, context, None),
            level / spread,
            bits,
            (float(values[own].mean()), spread),
            np.array([points[place] for place in own]),
        )


def _measured(context: ProposalContext) -> tuple[list[TrialRecord], list[tuple[float, float]]]:
    records, points = [], []
    for record in reversed(context.history.records):
        spec = record.spec
        if (
            record.outdated
            or spec.protocol != "quality"
            or spec.rung
            or spec.replicate
            or spec.kv.key.method == spec.kv.value.method == "none"
        ):
            continue
        found = objectives(record)
        if found is not None:
            records.append(record)
            points.append((max(found[0], LOWEST), found[1]))
        if len(records) == MOST:
            break
    return records, points


def _candidates(model: str, context: ProposalContext) -> list[_Candidate]:
    """Random trials and the best known ones, many of them with other keys, other values, or both."""
    info, rng = context.infos[model], context.rng
    keys, values = ([spec for name in side.methods for spec in side.specs(name)] for side in context.space.sides(info))
    known = [
        r
        for r in context.history.completed
        if r.spec.model == model and r.spec.protocol == "quality" and not r.spec.rung
    ]
    best = sorted(known, key=lambda r: (objectives(r) or (np.inf,))[0])[: len(known) // 2 + 1]
    templates = [context.space.random(rng, info) for _ in range(TEMPLATES)]
    templates += [
        best[int(i)].spec.model_copy(update={"replicate": 0, "seed": 0})
        for i in rng.integers(len(best), size=TEMPLATES)
    ]
    picks = rng.integers(len(templates), size=CANDIDATES), rng.integers(len(keys), size=CANDIDATES)
    others = rng.integers(len(values), size=CANDIDATES), rng.integers(4, size=CANDIDATES)
    found = []
    for template, key, value, change in zip(*picks, *others, strict=True):
        start = templates[template]
        found.append(
            _Candidate(
                start,
                keys[key] if change != 1 else start.kv.key,
                values[value] if change != 2 else start.kv.value,
            )
        )
    return [c for c in found if (c.key.method, c.value.method) != ("none", "none")]


@dataclass(frozen=True)
class _Features:
    """Numbers and classes per configuration: of keys, of values, of the rest; and the model."""

    key: tuple[Floats, NDArray[np.int64]]
    value: tuple[Floats, NDArray[np.int64]]
    rest: tuple[Floats, NDArray[np.int64]]
    model: NDArray[np.int64]


SIDE_NUMBERS, SIDE_CLASSES = (0.5, 0.3), (1.0, 0.5, 0.5, 0.3)
REST_NUMBERS, REST_CLASSES = (2.0, 2.0), (0.5, 0.7, 1.0, 1.0)
"""How far a step in a number, or another class, takes two configurations apart."""


def _features(pool: Sequence[_Candidate], context: ProposalContext, model: str | None) -> _Features:
    names = list(context.infos)
    sides = [
        (
            np.array([_side_numbers(spec) for spec in specs]),
            np.array([_codes(spec.method, spec.rotation, spec.axis, spec.scaling) for spec in specs]),
        )
        for specs in ([c.key for c in pool], [c.value for c in pool])
    ]
    rest = [_rest(c, context) for c in pool]
    models = [names.index(model or c.template.model) for c in pool]
    return _Features(
        sides[0], sides[1], (np.array([r[0] for r in rest]), np.array([r[1] for r in rest])), np.array(models)
    )


def _side_numbers(spec: QuantSpec) -> tuple[float, float]:
    return float(16 if spec.method == "none" else spec.bits or 16), log2(spec.group_size or 64)


def _rest(candidate: _Candidate, context: ProposalContext) -> tuple[tuple[float, float], tuple[int, ...]]:
    spec = candidate.template
    n = context.infos[spec.model].n_layers
    first, count = (spec.layers[0], len(spec.layers)) if spec.layers else (0, n)
    kv = spec.kv
    same = (candidate.key, candidate.value) == (kv.key, kv.value)
    return (first / n, count / n), _codes(kv.sink_tokens, kv.residual_window, kv.key_bias, kv.overrides if same else ())


def _codes(*classes: object) -> tuple[int, ...]:
    """Classes as numbers that are equal where they are; only within this process."""
    return tuple(hash(one) for one in classes)


def _apart(
    a: tuple[Floats, NDArray[np.int64]],
    b: tuple[Floats, NDArray[np.int64]],
    numbers: Sequence[float],
    classes: Sequence[float],
) -> Floats:
    """Distance of every configuration of one list from every one of another."""
    found = np.zeros((len(a[0]), len(b[0])))
    for column, weight in enumerate(numbers):
        found += weight * np.abs(a[0][:, None, column] - b[0][None, :, column])
    for column, weight in enumerate(classes):
        found += weight * (a[1][:, None, column] != b[1][None, :, column])
    return found


class _Distances:
    """Distances between two lists of configurations, for covariances of several lengths."""

    def __init__(self, a: _Features, b: _Features) -> None:
        self.key = _apart(a.key, b.key, SIDE_NUMBERS, SIDE_CLASSES)
        self.value = _apart(a.value, b.value, SIDE_NUMBERS, SIDE_CLASSES)
        self.rest = _apart(a.rest, b.rest, REST_NUMBERS, REST_CLASSES)
        self.same = a.model[:, None] == b.model[None, :]

    def covariance(self, length: float, likeness: float) -> Floats:
        """Keys alone, values alone, and both together, each with the rest."""
        key, value, rest = (np.exp(-d / length) for d in (self.key, self.value, self.rest))
        found = rest * (0.4 * key + 0.4 * value + 0.2 * key * value)
        return np.asarray(found * np.where(self.same, 1.0, likeness))


def _predict(data: _Data, features: _Features) -> tuple[Floats, Floats, Floats]:
    """Mean and standard deviation of log10 KLD, and bits/value, of candidates."""
    from scipy.linalg import cho_solve

    own, cross = _Distances(data.features, data.features), _Distances(features, data.features)
    several = len(set(data.features.model.tolist())) > 1
    fits = [_fit(own, data.level, *choice) for choice in itertools.product(LENGTHS, LIKENESS if several else (0.0,))]
    _, length, likeness, factor, amplitude = max(fits, key=lambda fit: fit[0])
    weights = cho_solve(factor, data.level)
    reach = cross.covariance(length, likeness)
    mean = reach @ weights
    variance = amplitude * np.maximum(1e-6, 1.0 - np.einsum("ij,ji->i", reach, cho_solve(factor, reach.T)))
    centre, spread = data.scale
    # Cost follows from the configuration alone, whatever the model: one likeness, and as good as no noise.
    _, length, _, factor, _ = _fit(own, data.bits - data.bits.mean(), max(LENGTHS), 0.99, 1e-4)
    bits = data.bits.mean() + cross.covariance(length, 0.99) @ cho_solve(factor, data.bits - data.bits.mean())
    return centre + spread * mean, spread * np.sqrt(variance), bits


def _fit(
    own: _Distances, level: Floats, length: float, likeness: float, noise: float = NOISE
) -> tuple[float, float, float, tuple[Floats, bool], float]:
    """Logarithm of the likelihood with the best amplitude, what was chosen, the Cholesky factor, the amplitude."""
    from scipy.linalg import cho_factor, cho_solve

    covariance = own.covariance(length, likeness)
    covariance[np.diag_indices_from(covariance)] += noise
    factor = cho_factor(covariance, lower=True)
    amplitude = float(level @ cho_solve(factor, level)) / len(level)
    likelihood = -0.5 * len(level) * np.log(amplitude + 1e-12) - float(np.log(np.diag(factor[0])).sum())
    return likelihood, length, likeness, factor, amplitude


def _gain(known: Floats, mean: Floats, deviation: Floats, bits: Floats, context: ProposalContext) -> Floats:
    """Expected hypervolume that each candidate adds to what is known."""
    from scipy.special import ndtr

    (worst, most), _ = box(context.settings)
    inside = [(float(v), float(b)) for v, b in known if v < worst and b < most]
    steps = [inside[i] for i in front(inside)]
    # Between two costs of the front, what a candidate must beat is constant.
    costs = np.array([0.0, *(b for _, b in steps), most])
    reached = np.array([worst, *(v for v, _ in steps)])
    z = (reached[None, :] - mean[:, None]) / deviation[:, None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement = deviation[:, None] * (z * ndtr(z) + density)
    widths = np.clip(costs[None, 1:] - np.maximum(costs[None, :-1], bits[:, None]), 0.0, None)
    return np.asarray((improvement * widths).sum(axis=1))
