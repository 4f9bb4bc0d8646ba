"""What `swarm recommend` answers, as value types: one configuration, what it loses and costs, and what is not known."""

from __future__ import annotations

from pydantic import Field

from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import FrozenModel, KVSpec


class NothingToRecommendError(SwarmError):
    """No configuration can be recommended from what was measured."""


class IntervalEstimate(FrozenModel):
    """An estimate with the ends of its 90% interval; None where nothing was measured that would give them."""

    value: float
    low: float | None = None
    high: float | None = None


class CostLimits(FrozenModel):
    """What a configuration may cost: bits per value, or bytes of cache at a context; and what it may lose.

    `tolerance` is in nats of KLD, and asks for the cheapest configuration that stays below it. `note` says where the
    bytes come from.
    """

    bits: float | None = Field(default=None, gt=0, le=32)
    cache_bytes: int | None = None
    context: int | None = Field(default=None, ge=1)
    tolerance: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    note: str = ""


class Option(FrozenModel):
    """A configuration with what it costs and is expected to lose (KLD in nats, mean over windows of the text).

    `words` say what the label of the configuration means. `trials` are those on the model itself; without any, the loss
    is predicted from other models. `cache_bytes` is at the context of the limits, the residual window and sinks in 16
    bit included.
    """

    configuration: str
    words: str
    kv: KVSpec
    bits_per_value: float
    cache_bytes: int | None = None
    loss: IntervalEstimate
    trials: tuple[int, ...] = ()


class Measure(FrozenModel):
    """One number of the recommended configuration, beside its loss. Without an interval it was read off a trial."""

    name: str
    value: IntervalEstimate
    unit: str = ""
    trials: tuple[int, ...] = ()


class Decisive(FrozenModel):
    """A trial that would help to decide, and why."""

    configuration: str
    spec: TrialSpec
    why: str


class Recommendation(FrozenModel):
    """The answer: what to use, the next best (`ratio`: its KLD over that of the choice), and what is not known.

    `basis` says what it rests on: results on the model and on others.
    """

    model: str
    limits: CostLimits
    choice: Option
    measures: tuple[Measure, ...] = ()
    times: tuple[Measure, ...] = ()
    runner_up: Option | None = None
    ratio: IntervalEstimate | None = None
    untested: tuple[str, ...] = ()
    decisive: tuple[Decisive, ...] = ()
    findings: tuple[int, ...] = ()
    basis: str = ""
