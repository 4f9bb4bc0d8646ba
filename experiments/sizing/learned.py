"""What measured runs say of a machine: seconds per token as a constant and a time per byte read, and memory.

Memory beside weights and cache is what an engine takes for itself: buffers, copies of weights, its runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import fmean, median

from pydantic import Field

from swarm.kernels.values import FrozenModel


class MeasuredRun(FrozenModel):
    """A decode rate that was measured: of which model and cache, with how many tokens held, by which trial.

    `read_bytes` are the weights and the part of the cache that one token reads. `memory_bytes` is what the engine held,
    None where that is not known; of it `known_bytes` are weights and cache, and `overhead_estimate` is what a plan
    expects beside them.
    """

    trial: int
    model: str
    label: str
    context: int
    tokens_per_second: float = Field(gt=0)
    read_bytes: int = Field(gt=0)
    memory_bytes: int | None = Field(default=None, gt=0)
    known_bytes: int = Field(default=0, ge=0)
    overhead_estimate: int = Field(default=1, gt=0)
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


def learn(found: Sequence[MeasuredRun]) -> LearnedRates | None:
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
    return LearnedRates(
        seconds=seconds,
        bandwidth=1 / per_byte,
        error=fmean(left_out) if left_out else None,
        n=len(found),
        latest=_latest(found),
    )


class LearnedMemory(FrozenModel):
    """What an engine holds beside weights and cache.

    Attributes:
        overhead_bytes: that, for the model at hand.
        own: whether it was measured of that model; else of others, in proportion to what a plan estimates.
        error: mean relative error of the whole memory that was predicted from all other measurements; None for fewer
            than three.
        n: measurements.
        latest: when the latest was made.
    """

    overhead_bytes: int = Field(ge=0)
    own: bool
    error: float | None
    n: int
    latest: datetime | None


def learn_memory(found: Sequence[MeasuredRun], own: Sequence[MeasuredRun], estimate: int) -> LearnedMemory | None:
    """What measurements say of the memory of a model; None without any.

    The median share of the estimate.

    Args:
        found: runs of all models.
        own: those of the model itself, which count alone where there are any.
        estimate: bytes that a plan expects beside the model's weights and cache.
    """
    of_itself = [one for one in own if one.memory_bytes is not None]
    used = of_itself or [one for one in found if one.memory_bytes is not None]
    if not used:
        return None
    left_out = [
        abs((one.known_bytes + _share([*used[:place], *used[place + 1 :]]) * one.overhead_estimate) / held - 1)
        for place, one in enumerate(used)
        if len(used) > 2 and (held := one.memory_bytes) is not None
    ]
    return LearnedMemory(
        overhead_bytes=round(_share(used) * estimate),
        own=bool(of_itself),
        error=fmean(left_out) if left_out else None,
        n=len(used),
        latest=_latest(used),
    )


def _share(found: Sequence[MeasuredRun]) -> float:
    """What was held beside weights and cache, over what was estimated: the median."""
    return max(0.0, median(((one.memory_bytes or 0) - one.known_bytes) / one.overhead_estimate for one in found))


def _latest(found: Sequence[MeasuredRun]) -> datetime | None:
    return max((one.measured_at for one in found if one.measured_at is not None), default=None)


def _fit(found: Sequence[MeasuredRun]) -> tuple[float, float]:
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
