"""Optimal scalar codebooks (Lloyd-Max) for the laws that rotated vectors follow.

A coordinate t of a uniformly random unit vector in d dimensions has density c (1 - t^2)^((d - 3) / 2) on [-1, 1]
(2504.19874); the angle a between two radii of 2^(l - 1) coordinates each has density c sin(2a)^(2^(l - 1) - 1) on
[0, pi / 2] (2502.02617).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

_GRID = 1 << 16  # cells of the numerical integration


@dataclass(frozen=True, eq=False)
class Codebook:
    """Sorted `values` [n] float32, the `edges` [n - 1] between their cells, and the mean squared error."""

    values: np.ndarray
    edges: np.ndarray
    distortion: float


@cache
def sphere(head_dim: int, bits: int) -> Codebook:
    """The codebook of 2^bits float16 values for one coordinate of a random unit vector in `head_dim` dimensions."""
    # The density is negligible beyond 12 standard deviations, and the grid is spent where it is not.
    limit = min(1.0, 12 / np.sqrt(head_dim))
    best = lloyd_max(lambda t: np.maximum(1 - t * t, 0) ** ((head_dim - 3) / 2), -limit, limit, 1 << bits)
    # Matrix units of GPUs take 16-bit numbers: values that are such mean the same on every back-end.
    values = best.values.astype(np.float16).astype(np.float32)
    return Codebook(values, (values[1:] + values[:-1]) / 2, best.distortion)


@cache
def angle(level: int, bits: int) -> Codebook:
    """The codebook of 2^bits angles in [0, pi / 2] of a level (2 or higher) of the polar decomposition."""
    power = 2 ** (level - 1) - 1
    return lloyd_max(lambda a: np.maximum(np.sin(2 * a), 0) ** power, 0.0, np.pi / 2, 1 << bits)


def lloyd_max(density: Callable[[np.ndarray], np.ndarray], low: float, high: float, size: int) -> Codebook:
    """The `size` values of least mean squared error under a density on [low, high], symmetric about its middle.

    Alternates between the midpoints of neighbours (edges) and the centroids of cells (values) until nothing moves;
    for log-concave densities, as here, that is the global optimum.
    """
    edges = np.linspace(low, high, _GRID + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    weight = density(middle)
    weight = (weight + weight[::-1]) / 2
    mass, moment, square = (
        np.concatenate([[0.0], np.cumsum(part)]) for part in (weight, weight * middle, weight * middle**2)
    )

    def integrals(cuts: np.ndarray) -> list[np.ndarray]:
        points = np.concatenate([[low], cuts, [high]])
        return [np.diff(np.interp(points, edges, total)) for total in (mass, moment, square)]

    values = np.interp((np.arange(size) + 0.5) / size * mass[-1], mass, edges)
    for _ in range(10_000):
        cells = integrals((values[1:] + values[:-1]) / 2)
        moved = cells[1] / np.maximum(cells[0], 1e-300)
        moved = (moved - moved[::-1] + low + high) / 2
        change = np.abs(moved - values).max()
        values = moved
        if change < 1e-12 * (high - low):
            break
    cuts = (values[1:] + values[:-1]) / 2
    cell_mass, cell_moment, cell_square = integrals(cuts)
    error = cell_square - 2 * values * cell_moment + values**2 * cell_mass
    return Codebook(values.astype(np.float32), cuts.astype(np.float32), float(error.sum() / mass[-1]))
