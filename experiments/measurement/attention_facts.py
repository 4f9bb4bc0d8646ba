"""What 16-bit keys, values and queries of a layer look like: facts that may explain why quantization hurts there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.learned_scaling import rms
from swarm.experiments.measurement.reference_run import float32_from_file

if TYPE_CHECKING:
    from swarm.experiments.measurement.reference_run import LayerInputs

Floats = NDArray[np.float32]


def series(given: Sequence[LayerInputs]) -> dict[str, tuple[float, ...]]:
    """Facts per layer, means over KV heads; 0 for a side that a layer does not keep.

    - `layer_key_outliers`, `layer_value_outliers`: root mean square of the largest channel over that of the median one.
    - `layer_key_imbalance`: by which factor channels typically differ in the root of keys over queries; 1 is balanced.
    - `layer_value_unevenness`: by which factor channels of the values typically differ.
    - `layer_key_norm_spread`, `layer_value_norm_spread`: by which factor the norms of tokens typically differ.

    Typically means the exponential of the standard deviation of the logarithm.
    """
    found: dict[str, list[float]] = {}
    for one in given:
        for name, value in _layer(one).items():
            found.setdefault(f"layer_{name}", []).append(value)
    return {name: tuple(values) for name, values in found.items()}


def _layer(given: LayerInputs) -> dict[str, float]:
    keys, values = (_sizes(side) for side in (given.keys, given.values))
    return {
        "key_outliers": _outliers(keys),
        "value_outliers": _outliers(values),
        "key_imbalance": _spread(balance(keys, given.queries)) if keys.size else 0.0,
        "value_unevenness": _spread(values) if values.size else 0.0,
        "key_norm_spread": _norm_spread(given.keys),
        "value_norm_spread": _norm_spread(given.values),
    }


def balance(keys: Floats, queries: Floats) -> Floats:
    """Roots of the ratio of keys to queries per KV head and channel [H, D].

    Args:
        keys: root mean squares of the keys' channels [H, D].
        queries: queries [W, Hq, P, D]; query heads that share a KV head count together.
    """
    reading = rms(queries.reshape(len(queries), len(keys), -1, keys.shape[1]))
    found: Floats = np.sqrt(keys / reading)
    return found


def _sizes(vectors: NDArray[Any]) -> Floats:
    return rms(float32_from_file(vectors)) if vectors.size else np.empty((0, 0), np.float32)


def _outliers(sizes: Floats) -> float:
    return float((sizes.max(-1) / np.median(sizes, axis=-1)).mean()) if sizes.size else 0.0


def _spread(sizes: Floats) -> float:
    return float(np.exp(np.log(sizes).std(-1)).mean())


def _norm_spread(vectors: NDArray[Any]) -> float:
    """Of vectors [W, H, T, D] as files hold them."""
    if not vectors.size:
        return 0.0
    norms = np.linalg.norm(float32_from_file(vectors), axis=-1)
    return float(np.exp(np.log(np.maximum(norms, np.finfo(np.float32).tiny)).std(-1)).mean())
