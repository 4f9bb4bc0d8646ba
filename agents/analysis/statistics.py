"""Intervals and tests for small paired samples.

scipy is imported inside the functions that need it, because that costs 0.3 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import atanh, comb, exp, inf, isfinite, sqrt, tanh
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE

MIN_TO_SHRINK = 5
"""Estimates from which it is known well enough how much their variances differ for each to borrow from the others."""
MAX_BORROWED_DF = 20.0
"""Cap on the degrees of freedom that a test takes from the others."""


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

    @property
    def width(self) -> float:
        """Width of the interval."""
        low, high = self.interval()
        return high - low

    def __neg__(self) -> Estimate:
        """The estimate of the opposite sign."""
        return Estimate(-self.mean, self.stderr, self.df, self.n)

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


def moderate(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The estimates with their variances shrunk towards what they have in common, which adds degrees of freedom.

    Empirical Bayes for many tests with few samples each (Smyth 2004, doi:10.2202/1544-6115.1027): the prior's
    variance and its degrees of freedom are fitted to the variances; as unlike as they are, as little is borrowed.
    """
    from scipy.special import digamma, polygamma

    usable = [e for e in estimates if e.stderr > 0]
    if len(usable) < MIN_TO_SHRINK:
        return list(estimates)
    half = np.array([e.df / 2 for e in usable])
    level = np.log([e.stderr**2 for e in usable]) - digamma(half) + np.log(half)
    spread = float(level.var(ddof=1) - polygamma(1, half).mean())
    prior_df = MAX_BORROWED_DF if spread <= 0 else min(MAX_BORROWED_DF, 2 * _inverse_trigamma(spread))
    prior = exp(float(level.mean() + digamma(prior_df / 2) - np.log(prior_df / 2)))
    return [
        Estimate(e.mean, sqrt((prior_df * prior + e.df * e.stderr**2) / (prior_df + e.df)), e.df + prior_df, e.n)
        for e in estimates
    ]


def _inverse_trigamma(y: float) -> float:
    from scipy.special import polygamma

    if y > 1e7:
        return float(y**-0.5)
    x = 0.5 + 1 / y
    for _ in range(50):
        step = polygamma(1, x) * (1 - polygamma(1, x) / y) / polygamma(2, x)
        x += float(step)
        if abs(step) < 1e-8 * x:
            break
    return float(x)


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which hypotheses fall at a family-wise error rate of `ALPHA` (Holm 1979)."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > ALPHA / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def significant(tested: Sequence[tuple[T, Estimate]], least: float) -> list[tuple[T, Estimate]]:
    """The tests of a family whose mean is not 0 at a family-wise error of 5% (Holm) and larger than `least`.

    Returns:
        What was tested with its moderated estimate, in the given order.
    """
    firm = moderate([estimate for _, estimate in tested])
    kept = holm([estimate.p for estimate in firm])
    return [
        (what, estimate)
        for (what, _), estimate, keep in zip(tested, firm, kept, strict=True)
        if keep and abs(estimate.mean) > least
    ]


def residuals(x: Sequence[float], y: Sequence[float]) -> NDArray[np.float64]:
    """What a straight line over x does not explain of y."""
    design = np.stack([np.ones(len(x)), np.asarray(x, dtype=float)], axis=1)
    target = np.asarray(y, dtype=float)
    left: NDArray[np.float64] = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return left


def bootstrap(
    statistic: Callable[[np.random.Generator], float], *, seed: int, rounds: int = 1_000
) -> tuple[float, float]:
    """Percentile interval of a statistic that draws its own resample; not finite draws are left out."""
    rng = np.random.default_rng([seed, rounds])
    draws = [value for value in (statistic(rng) for _ in range(rounds)) if isfinite(value)]
    if not draws:
        return -inf, inf
    tail = ALPHA / 2
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


def fisher(hits: int, size: int, all_hits: int, total: int) -> float:
    """One-sided p value that a group of `size` in `total` has so many of `all_hits` by chance (Fisher's exact test)."""
    most = min(size, all_hits)
    ways = sum(comb(all_hits, k) * comb(total - all_hits, size - k) for k in range(hits, most + 1))
    return ways / comb(total, size)


def proportion(hits: int, size: int) -> tuple[float, float]:
    """Exact interval of a rate (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    tail = ALPHA / 2
    low = float(betaincinv(hits, size - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, size - hits, 1 - tail)) if hits < size else 1.0
    return low, high


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's rho with its interval: Fisher's z with the variance of Bonett and Wright (2000)."""
    a, b = _ranked(x), _ranked(y)
    if len(a) < 4 or a.std() == 0 or b.std() == 0:
        return 0.0, -1.0, 1.0
    rho = float(np.clip(np.corrcoef(a, b)[0, 1], -0.999, 0.999))
    half = 1.96 * sqrt((1 + rho**2 / 2) / (len(a) - 3))
    return rho, tanh(atanh(rho) - half), tanh(atanh(rho) + half)


def _ranked(x: Sequence[float]) -> NDArray[np.float64]:
    """Ranks, with the mean rank for ties."""
    _, place, counts = np.unique(np.asarray(x, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranks


def bounded_exp(x: float) -> float:
    """Exponential without overflow: effects on the logarithmic scale shown as ratios stay finite."""
    return exp(max(-700.0, min(700.0, x)))
