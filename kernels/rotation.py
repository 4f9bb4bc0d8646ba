"""Seeded orthogonal rotations of the channels of one head.

A rotation leaves scores as they are when keys and queries share it, and spreads outlier channels over all of them.
Sources: 2404.00456 (QuaRot) for Hadamard times signs; 2604.19157 (SAW-INT4) for block-diagonal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.values import RotationKind


def hadamard(order: int) -> np.ndarray:
    """The normalized Hadamard matrix (Sylvester) of a power-of-two order, float64 [order, order]."""
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(order))


def matrix(kind: RotationKind, head_dim: int, seed: int) -> np.ndarray:
    """The orthogonal matrix R of a rotation, float64 [D, D]: x -> x R.

    `hadamard` is seeded random signs times the normalized Hadamard matrix, block diagonal with blocks of the largest
    power of two that divides D; `random` is the Q of a seeded Gaussian matrix, uniform over the orthogonal group.
    """
    rng = np.random.default_rng([seed, head_dim])
    if kind == "none":
        return np.eye(head_dim)
    if kind == "hadamard":
        order = head_dim & -head_dim
        signs = rng.choice([-1.0, 1.0], size=head_dim)
        return signs[:, None] * np.kron(np.eye(head_dim // order), hadamard(order))
    q, r = np.linalg.qr(rng.standard_normal((head_dim, head_dim)))
    return np.asarray(q * np.sign(np.diagonal(r)))


class Rotation:
    """An orthogonal map of vectors [..., D]; the same kind, size and seed give the same map."""

    def __init__(self, kind: RotationKind, head_dim: int, seed: int = 0) -> None:
        self.kind = kind
        self._maps: Sequence[Linear | _Hadamard] = _maps(kind, head_dim, seed) if kind != "none" else ()

    @property
    def signs(self) -> tuple[int, np.ndarray] | None:
        """Order and signs [D] of x -> (x * signs) H, H block diagonal of Hadamard matrices (1: none); else None."""
        if self.kind == "none":
            return 1, np.ones(1, np.float32)
        first = self._maps[0]
        return (first.order, first.signs) if isinstance(first, _Hadamard) else None

    def forward(self, x: Array) -> Array:
        """Rotate: x R in float32, for keys, values and queries alike."""
        return x if self.kind == "none" else self._maps[0](x)

    def inverse(self, x: Array) -> Array:
        """Rotate back: x R^T in float32, undoes `forward`."""
        return x if self.kind == "none" else self._maps[1](x)


class Linear:
    """Vectors [..., n] times a fixed matrix [n, m], in float32.

    A vector's result does not depend on its neighbours or on their number, so that packed codes do not depend on how
    many tokens arrive at once: on the CPU all products have one shape, for BLAS sums in another order for others.
    """

    _ROWS = 32

    def __init__(self, factor: np.ndarray) -> None:
        self.matrix = np.ascontiguousarray(factor, np.float32)

    def __call__(self, x: Array) -> Array:
        """The product, in x's library."""
        xp = arrays.namespace(x)
        values = arrays.single(xp, x)
        if xp is not np:
            return values @ arrays.constant(xp, self.matrix)
        size, width = self.matrix.shape
        rows = values.reshape(-1, size)
        if missing := -len(rows) % self._ROWS:
            rows = np.concatenate([rows, np.zeros((missing, size), np.float32)])
        product = (rows.reshape(-1, self._ROWS, size) @ self.matrix).reshape(-1, width)
        return product[: len(product) - missing].reshape(*x.shape[:-1], width)


class _Hadamard:
    """A matrix S H or H S of signs and block-diagonal Hadamard matrices.

    By MLX's own transform on an accelerator; on the CPU as products of order 64 and sums above it, faster there.
    """

    _PRODUCT = 64

    def __init__(self, full: np.ndarray) -> None:
        order = len(full) & -len(full)
        self.order = order
        self._inner = min(order, self._PRODUCT)
        # The first row and column of a Hadamard matrix are positive, so signs can be read off there.
        starts = np.arange(0, len(full), order).repeat(order)
        channels = np.arange(len(full))
        self._before = _signs(full[channels, starts])
        self._after = _signs(full[starts, channels] * full[starts, starts])
        self._block = Linear(hadamard(self._inner) * np.sqrt(self._inner / order))

    @property
    def signs(self) -> np.ndarray:
        """What vectors are multiplied with first."""
        return np.ones(1, np.float32) if self._before is None else self._before

    def __call__(self, x: Array) -> Array:
        xp = arrays.namespace(x)
        if 0 in x.shape:
            return arrays.single(xp, x)
        signed = _signed(xp, arrays.single(xp, x), self._before)
        blocks = signed.reshape(*x.shape[:-1], -1, self.order)
        mapped = self._by_products(blocks) if xp is np else xp.hadamard_transform(blocks, scale=self.order**-0.5)
        return _signed(xp, mapped.reshape(x.shape), self._after)

    def _by_products(self, blocks: np.ndarray) -> Array:
        values = self._block(blocks.reshape(-1, self._inner)).reshape(-1, self.order // self._inner, self._inner)
        span = 1
        while span < values.shape[1]:
            pairs = values.reshape(len(values), -1, 2, span * self._inner)
            low, high = pairs[:, :, 0], pairs[:, :, 1]
            values = np.stack([low + high, low - high], axis=2).reshape(values.shape)
            span *= 2
        return values


@lru_cache(64)
def _maps(kind: RotationKind, head_dim: int, seed: int) -> tuple[Linear | _Hadamard, Linear | _Hadamard]:
    """The map and its inverse, kept for the next cache of the same layer."""
    full = matrix(kind, head_dim, seed)
    return (_Hadamard(full), _Hadamard(full.T)) if kind == "hadamard" else (Linear(full), Linear(full.T))


def _signs(values: np.ndarray) -> np.ndarray | None:
    """The signs of values in float32; None where all are positive."""
    return None if (values > 0).all() else np.sign(values).astype(np.float32)


def _signed(xp: Namespace, x: Array, signs: np.ndarray | None) -> Array:
    return x if signs is None else x * arrays.constant(xp, signs)
