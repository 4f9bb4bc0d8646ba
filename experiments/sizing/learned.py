"""What measured decode rates say of a machine: seconds per token as a constant and a time per byte that is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean

from pydantic import Field

from swarm.kernels.values import FrozenModel


class MeasuredRate(FrozenModel):
    """A decode rate that was measured: of which model and cache, with how many tokens held, by which trial.

    `read_bytes` are the weights and the part of the cache that one token reads.
    """

    trial: int
    model: str
    label: str
    context: int
    tokens_per_second: float = Field(gt=0)
    read_bytes: int = Field(gt=0)
    measured_at: datetime | None = None


class LearnedRates(FrozenModel):
    """A token takes `seconds` and the bytes that it reads over `bandwidth` (bytes/s).

    Attributes:
        error: mean relative error of rates that were predicted from all other measurements; None for fewer than three.
        n: measurements.
        latest: when the latest was made.
    """

    seconds: float = Field(ge=0)
    bandwidth: float = Field(gt=0)
    error: float | None
    n: int
    latest: datetime | None

    def tokens_per_second(self, read_bytes: int) -> float:
        """The rate of a token that reads so many bytes."""
        return 1 / (self.seconds + read_bytes / self.bandwidth)


def learn(found: Sequence[MeasuredRate]) -> LearnedRates | None:
    """What measurements say; None where there are none.

    Least squares of relative errors with both terms at least 0; where the measurements do not tell the constant from
    the time per byte (fewer than two, or all of about the same size), the constant is 0.
    """
    if not found:
        return None
    seconds, per_byte = _fit(found)
    left_out = [
        abs(1 / (a + b * one.read_bytes) / one.tokens_per_second - 1)
        for place, one in enumerate(found)
        if len(found) > 2
        for a, b in [_fit([*found[:place], *found[place + 1 :]])]
    ]
    dates = [one.measured_at for one in found if one.measured_at is not None]
    return LearnedRates(
        seconds=seconds,
        bandwidth=1 / per_byte,
        error=fmean(left_out) if left_out else None,
        n=len(found),
        latest=max(dates, default=None),
    )


def _fit(found: Sequence[MeasuredRate]) -> tuple[float, float]:
    """Seconds per token and per byte, the latter above 0."""
    import numpy as np
    from scipy.optimize import nnls

    sizes = np.array([float(one.read_bytes) for one in found])
    rates = np.array([one.tokens_per_second for one in found])
    alone = 1 / float((sizes * rates).mean())
    if len(found) < 2 or sizes.max() < SPREAD * sizes.min():
        return 0.0, alone
    scale = sizes.max()
    (constant, slope), _ = nnls(np.stack([rates, rates * sizes / scale], axis=1), np.ones(len(found)))
    return (float(constant), float(slope / scale)) if slope > 0 else (0.0, alone)


SPREAD = 1.5
"""How many times the smallest size the largest must be for the constant to be told from the time per byte."""
