"""A trial that measures nothing: it takes a set time, or fails in a set way. For tests and for timing the swarm itself.

The search never chooses it. `TrialSpec.context` is the time in milliseconds; `TrialSpec.seed` modulo 8 is the fault.
"""

from __future__ import annotations

import errno
import math
import os
import time
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from swarm.experiments.environment import environment
from swarm.experiments.protocols.base import Protocol, check_rung
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels.errors import TrialError

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import ModelUnderTest

FAULTS = 8
CRASH_STATUS = 86
HANG_SECONDS = 86_400.0


class Fault(IntEnum):
    """How the trial ends."""

    NONE = 0
    CRASH = 1
    HANG = 2
    NAN = 3
    OOM = 4
    DISK_FULL = 5
    ERROR = 6
    BUG = 7


def instruct(
    number: int, fault: Fault = Fault.NONE, milliseconds: int = 2, model: str = "simulated", **fields: object
) -> TrialSpec:
    """The trial specification that makes `simulated` take some time and end in this way; `number` makes it unique."""
    seed = number * FAULTS + fault
    return TrialSpec.model_validate(
        {"model": model, "protocol": "simulated", "context": max(2, milliseconds), "seed": seed, **fields}
    )


class Simulated(Protocol):
    """Sleeps, then fails as told or returns numbers that follow from the specification alone."""

    name: ClassVar[str] = "simulated"
    summary: ClassVar[str] = "takes a set time or fails in a set way; measures nothing"
    rungs: ClassVar[tuple[str, ...]] = ("sleep", "sleep again")

    def check(self, spec: TrialSpec, subject: ModelUnderTest) -> None:  # noqa: ARG002
        """Only the rung matters: there need not be a model."""
        check_rung(self, spec)

    def measure(self, spec: TrialSpec, subject: ModelUnderTest) -> Measurement:  # noqa: ARG002
        """Obey the seed.

        Raises:
            TrialError: the seed asks for it.
            MemoryError, OSError, ZeroDivisionError: likewise; the runner turns them into outcomes.
        """
        time.sleep(spec.context / 1000)
        value = 1.0
        match Fault(spec.seed % FAULTS):
            case Fault.CRASH:
                os._exit(CRASH_STATUS)
            case Fault.HANG:
                time.sleep(HANG_SECONDS)
            case Fault.NAN:
                value = math.nan
            case Fault.OOM:
                raise MemoryError("the specification asked for it")
            case Fault.DISK_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case Fault.ERROR:
                raise TrialError("the specification asked for this error.", "Use another seed.")
            case Fault.BUG:
                value = 1 / 0
            case Fault.NONE:
                pass
        return Measurement(
            metrics=(
                Metric.of("kld", value * _kld(spec), "nat"),
                Metric.of("bits_per_value", _bits(spec), "bit"),
            ),
            notes="Nothing was measured: the numbers are a formula of the specification.",
            environment=environment(),
        )


def _bits(spec: TrialSpec) -> float:
    return ((spec.kv.key.bits or 16) + (spec.kv.value.bits or 16)) / 2


def _kld(spec: TrialSpec) -> float:
    """Falls by 4 per bit, as quantization noise does, with 10% of noise from the seed."""
    noise = np.random.default_rng(spec.seed).normal(scale=0.1)
    return float(4.0 ** -_bits(spec) * math.exp(noise))
