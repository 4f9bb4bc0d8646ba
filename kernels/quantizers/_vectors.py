"""What the vector quantizers share: norms in 16 bit, codebooks looked up, Gaussian sketches."""

from __future__ import annotations

import numpy as np

from swarm.kernels import bits
from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.codebooks import Codebook
from swarm.kernels.rotation import Linear


def norms(xp: Namespace, x: Array) -> Array:
    """Euclidean norms [..., 1] of float32 vectors."""
    return xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))


def directions(xp: Namespace, x: Array, norm: Array) -> Array:
    """Unit vectors, and 0 for a zero vector."""
    return x * xp.where(norm > 0, 1 / xp.maximum(norm, 1e-30), xp.zeros_like(norm))


def encode(xp: Namespace, x: Array, codebook: Codebook) -> Array:
    """The index uint8 of the nearest value of a codebook that is symmetric about 0."""
    half = len(codebook.values) // 2
    if half == 0:
        return xp.zeros(x.shape, dtype=xp.uint8)
    magnitude = xp.abs(x)
    above = xp.zeros(x.shape, dtype=xp.uint8)
    for edge in codebook.edges[half:].tolist():
        above += (magnitude > edge).view(xp.uint8)
    # Cells mirror about 0: m above it is half + m, m below it half - 1 - m, which is the complement of that.
    flip = (x < 0).view(xp.uint8) * (2 * half - 1)
    return (above + half) ^ flip


def signs(xp: Namespace, packed: Array) -> Array:
    """Packed bits uint8 [..., n / 8] as -1 and 1 in float32 [..., n]."""
    values = bits.unpack(xp, packed, 1).astype(xp.float32)
    values *= 2
    values -= 1
    return values


def sketch(rows: int, head_dim: int, seed: int) -> tuple[Linear, Linear]:
    """The maps by S^T and by S of a seeded Gaussian matrix S [rows, D]: x -> S x, and y -> S^T y."""
    gaussian = np.random.default_rng([seed, rows, head_dim]).standard_normal((rows, head_dim))
    return Linear(gaussian.T), Linear(gaussian)
