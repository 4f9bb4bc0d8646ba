"""Intervals and tests for small paired samples. Knows numbers only.

Heavy imports stay inside: scipy costs 0.3 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error: `df` degrees of freedom, `n` samples."""

    mean: float
    stderr: float
    df: float
    n: int

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided Student t interval."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.df, 0.5 + confidence / 2)) * self.stderr
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided p value of the hypothesis that the mean is 0."""
        from scipy.special import stdtr

        if self.stderr == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stdtr(self.df, -abs(self.mean) / self.stderr))

    def below(self, limit: float) -> float:
        """One-sided p value of the hypothesis that the mean is at least `limit`."""
        from scipy.special import stdtr

        if self.stderr == 0:
            return 0.0 if self.mean < limit else 1.0
        return float(stdtr(self.df, (self.mean - limit) / self.stderr))

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two independent estimates, with Welch's degrees of freedom."""
        a, b = self.stderr**2, other.stderr**2
        spread = a**2 / self.df + b**2 / other.df
        df = (a + b) ** 2 / spread if spread > 0 else self.df + other.df
        return Estimate(self.mean - other.mean, sqrt(a + b), df, min(self.n, other.n))


def mean(samples: Sequence[float]) -> Estimate | None:
    """The mean of independent samples; None for fewer than two, which carry no error."""
    if len(samples) < 2:
        return None
    x = np.asarray(samples, dtype=float)
    return Estimate(float(x.mean()), float(x.std(ddof=1) / sqrt(len(x))), len(x) - 1, len(x))


def holm(p_values: Sequence[float], alpha: float = 1 - CONFIDENCE) -> list[bool]:
    """Which hypotheses fall at a family-wise error rate of `alpha` (Holm 1979)."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def bootstrap(
    statistic: Callable[[np.random.Generator], float],
    *,
    seed: int,
    rounds: int = 1_000,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Percentile interval of a statistic that draws its own resample; not finite draws are left out."""
    rng = np.random.default_rng([seed, rounds])
    draws = [value for value in (statistic(rng) for _ in range(rounds)) if isfinite(value)]
    if not draws:
        return -inf, inf
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(draws), [tail, 1 - tail])
    return float(low), float(high)


def slope(x: Sequence[float], y: Sequence[float]) -> Estimate | None:
    """Least-squares slope of y over x; None for fewer than three points or one x."""
    if len(x) < 3 or len(set(x)) < 2:
        return None
    a: NDArray[np.float64] = np.asarray(x, dtype=float)
    b: NDArray[np.float64] = np.asarray(y, dtype=float)
    da = a - a.mean()
    value = float((da @ b) / (da @ da))
    residual = b - b.mean() - value * da
    df = len(a) - 2
    return Estimate(value, sqrt(float(residual @ residual) / df / float(da @ da)), df, len(a))


def bounded_exp(x: float) -> float:
    """Exponential without overflow: effects on the logarithmic scale shown as ratios stay finite."""
    return exp(max(-700.0, min(700.0, x)))
