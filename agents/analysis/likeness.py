"""How alike two cache configurations are: distances between what they are made of, and covariances from them.

Keys, values and everything else enter as factors of the covariance, so that what one trial says of its keys counts for
all configurations with such keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import numpy as np
from numpy.typing import NDArray

from swarm.kernels.spec import KVSpec, QuantSpec

Floats = NDArray[np.float64]
Features = tuple[Floats, NDArray[np.int64]]
"""Numbers and classes of some configurations, one row each."""

SIDE_WEIGHTS = ((0.5, 0.3), (1.0, 0.5, 0.5, 0.3))
REST_WEIGHTS = ((2.0, 2.0), (0.5, 0.7, 1.0, 1.0))
"""How far a step in each number, and another value of each class, takes two configurations apart."""


def features(pool: Sequence[tuple[KVSpec, int]]) -> tuple[Features, Features, Features]:
    """Numbers and classes of the keys, of the values and of the rest of configurations on so many layers."""

    def arrays(rows: list[tuple[tuple[float, ...], tuple[object, ...]]]) -> Features:
        # Hashes are equal where the classes are; within this process, that is all that counts.
        classes = [[hash(one) for one in row] for _, row in rows]
        return np.array([numbers for numbers, _ in rows]), np.array(classes)

    keys, values = [_side(kv.key) for kv, _ in pool], [_side(kv.value) for kv, _ in pool]
    return arrays(keys), arrays(values), arrays([_rest(kv, n) for kv, n in pool])


def _side(spec: QuantSpec) -> tuple[tuple[float, ...], tuple[object, ...]]:
    numbers = (float(16 if spec.method == "none" else spec.bits or 16), log2(spec.group_size or 64))
    return numbers, (spec.method, spec.rotation, spec.axis, spec.scaling)


def _rest(kv: KVSpec, n: int) -> tuple[tuple[float, ...], tuple[object, ...]]:
    first, count = (kv.layers[0], len(kv.layers)) if kv.layers else (0, n)
    return (first / n, count / n), (kv.sink_tokens, kv.residual_window, kv.key_bias, kv.overrides)


class Distances:
    """Distances between two lists of configurations, for covariances of several lengths."""

    def __init__(
        self, a: tuple[Features, ...], b: tuple[Features, ...], models_a: list[str], models_b: list[str]
    ) -> None:
        weights = (SIDE_WEIGHTS, SIDE_WEIGHTS, REST_WEIGHTS)
        self._parts = [_apart(one, other, *weight) for one, other, weight in zip(a, b, weights, strict=True)]
        self._same = np.array(models_a)[:, None] == np.array(models_b)[None, :]

    def covariance(self, length: float, likeness: float) -> Floats:
        """Keys alone, values alone, and both together, each with the rest."""
        key, value, rest = (np.exp(-d / length) for d in self._parts)
        found = rest * (0.4 * key + 0.4 * value + 0.2 * key * value)
        return np.asarray(found * np.where(self._same, 1.0, likeness))


def _apart(a: Features, b: Features, numbers: Sequence[float], classes: Sequence[float]) -> Floats:
    """Distance of every configuration of one list from every one of another."""
    found = np.zeros((len(a[0]), len(b[0])))
    for column, weight in enumerate(numbers):
        found += weight * np.abs(a[0][:, None, column] - b[0][None, :, column])
    for column, weight in enumerate(classes):
        found += weight * (a[1][:, None, column] != b[1][None, :, column])
    return found
