"""What to expect of configurations on a model: estimates on the logarithmic scale with all their covariances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from swarm.agents.analysis.likeness import Floats
from swarm.agents.analysis.results import Window

MOST_DF = 60.0
"""Degrees of freedom of what is estimated from many results."""
MOST_VARIANCE = 4.0
"""Of a logarithm, as far as it counts in an expected value: beyond it the value says only that nothing is known."""


@dataclass(frozen=True)
class Spread:
    """Variances of the logarithm over the windows of a model, and the degrees of freedom of the first."""

    windows: float
    rest: float
    df: float

    @property
    def smear(self) -> float:
        """Logarithm of the mean over windows less the mean of the logarithms, for normal ones."""
        return (self.windows + self.rest) / 2


@dataclass(frozen=True)
class Posterior:
    """What to expect of some configurations on one model: logarithms of the metric, mean over windows of the text.

    The unknowns are the configurations, then the level of the model, then the effects of its windows.

    Attributes:
        mean: of the configurations [n].
        covariance: of all unknowns [n + 1 + w, n + 1 + w].
        windows: which windows the last ones are.
        df: degrees of freedom per configuration [n].
        spread: of the windows.
    """

    mean: Floats
    covariance: Floats
    windows: tuple[Window, ...]
    df: Floats
    spread: Spread

    @property
    def variance(self) -> Floats:
        """Of the configurations, with that of turning a mean logarithm into a mean [n]."""
        smear = (self.spread.windows**2 / self.spread.df + self.spread.rest**2 / MOST_DF) / 2
        return np.maximum(np.diag(self.covariance)[: len(self.mean)], 1e-12) + smear

    @property
    def expected(self) -> Floats:
        """The mean of the metric itself over windows, and over what is uncertain [n]."""
        return np.exp(self.mean + self.spread.smear + np.minimum(self.variance, MOST_VARIANCE) / 2)

    def interval(self, place: int, confidence: float) -> tuple[float, float, float]:
        """The metric's mean over windows, and the ends of its interval."""
        from scipy.special import stdtrit

        middle = float(self.mean[place]) + self.spread.smear
        half = float(stdtrit(self.df[place], 0.5 + confidence / 2)) * float(np.sqrt(self.variance[place]))
        return exp(middle), exp(middle - half), exp(middle + half)

    def ratio(self, a: int, b: int, confidence: float) -> tuple[float, float, float]:
        """The metric of one configuration over that of another, and the ends of its interval."""
        from scipy.special import stdtrit

        apart = float(self.mean[a] - self.mean[b])
        variance = self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]
        df = min(float(self.df[a]), float(self.df[b]))
        half = float(stdtrit(df, 0.5 + confidence / 2)) * float(np.sqrt(max(variance, 0.0)))
        return exp(apart), exp(apart - half), exp(apart + half)

    def seen_by(self, place: int, windows: Sequence[Window]) -> tuple[Floats, float]:
        """How a trial of a configuration on some windows would move all unknowns, and its variance.

        Returns:
            Covariance of its result with the unknowns, and variance of the result.
        """
        weight = np.zeros(len(self.covariance))
        weight[place] = 1.0
        known = {window: len(self.mean) + 1 + k for k, window in enumerate(self.windows)}
        for window in windows:
            if window in known:
                weight[known[window]] = 1.0 / len(windows)
        fresh = sum(window not in known for window in windows) / len(windows) ** 2
        reach = self.covariance @ weight
        return reach, float(weight @ reach) + self.spread.rest / len(windows) + fresh * self.spread.windows

    def after(self, place: int, windows: Sequence[Window]) -> Posterior:
        """The same once such a trial is done, as far as it can be said now: surer, and not elsewhere."""
        reach, variance = self.seen_by(place, windows)
        left = self.covariance - np.outer(reach, reach) / variance
        return Posterior(self.mean, left, self.windows, self.df, self.spread)


def degrees(covariance: Floats, n: int, of_windows: float, of_level: float, of_effects: float) -> Floats:
    """Degrees of freedom by Satterthwaite: what hangs on few windows or few models is as uncertain as these are few."""
    variance = np.maximum(np.diag(covariance)[:n], 1e-12)
    parts = []
    for chosen in (slice(n, n + 1), slice(n + 1, None)):
        known = covariance[chosen, chosen]
        cross = covariance[:n, chosen]
        explained = np.einsum("ij,ji->i", cross, np.linalg.pinv(known) @ cross.T) if known.size else np.zeros(n)
        parts.append(np.clip(explained, 0.0, variance))
    left = np.clip(variance - parts[0] - parts[1], 0.0, None)
    squares = parts[0] ** 2 / of_level + parts[1] ** 2 / of_windows + left**2 / of_effects
    return np.asarray(np.clip(variance**2 / squares, 1.0, MOST_DF))
