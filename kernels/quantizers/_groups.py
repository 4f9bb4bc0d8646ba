"""Extremes of short groups of values. numpy reduces short rows slowly, so there the groups are laid out as columns."""

from __future__ import annotations

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace


def columns(xp: Namespace, x: Array, size: int) -> Array:
    """Runs of `size` values of the last axis as columns [size, n]."""
    turned = x.reshape(-1, size).T
    return np.ascontiguousarray(turned) if arrays.is_host(xp) else turned


def peaks(xp: Namespace, x: Array) -> Array:
    """Largest magnitude of each group [..., n, g], [..., n]."""
    if not arrays.is_host(xp):
        return xp.max(xp.abs(x), axis=-1)
    return np.abs(columns(xp, x, x.shape[-1])).max(axis=0).reshape(x.shape[:-1])


def extremes(xp: Namespace, x: Array) -> Array:
    """The value of largest magnitude of each column [g, n], with its sign; the first of equals. [n]."""
    if not arrays.is_host(xp):
        at = xp.argmax(xp.abs(x), axis=0, keepdims=True)
        return xp.take_along_axis(x, at, axis=0)[0]
    high, low = x.max(axis=0), x.min(axis=0)
    values = np.where(high >= -low, high, low)
    tied = np.flatnonzero(high == -low)  # all zeros too: they have signs
    values[tied] = x[np.abs(x[:, tied]).argmax(axis=0), tied]
    return values
