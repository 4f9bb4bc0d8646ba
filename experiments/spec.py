"""What one trial is and what it returned."""

from __future__ import annotations

from math import isfinite
from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from swarm.experiments.edits import WeightEdits
from swarm.experiments.engines.run.flags import EngineSpec
from swarm.kernels.errors import NonFiniteError
from swarm.kernels.spec import FrozenModel, KVSpec, layers_in_kv

Device = Literal["cpu", "cuda", "metal"]


class TrialSpec(FrozenModel):
    """Everything that decides a trial's result, the code version aside.

    `context` is in tokens.
    `rung` is the fidelity of the protocol (0 is the cheapest). `replicate` numbers asked-for replications, which
    read other text windows. `logit_gain` multiplies the attention logits. `edits` change the weights before the
    trial in a way that leaves the 16-bit function as it is. The digests pin weights (unedited) and text. `engine`
    is set in trials of an engine with flags alone; they leave `kv` as it is.
    """

    model: str
    model_digest: str = ""
    corpus_digest: str = ""
    kv: KVSpec = Field(default_factory=KVSpec)
    protocol: str = "quality"
    rung: int = Field(default=0, ge=0)
    context: int = Field(default=512, ge=2)
    seed: int = Field(default=0, ge=0)
    replicate: int = Field(default=0, ge=0)
    logit_gain: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    edits: WeightEdits = ()
    device: Device = "cpu"
    engine: EngineSpec | None = Field(default=None, exclude_if=lambda engine: engine is None)

    _read_layers = model_validator(mode="before")(layers_in_kv)

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The quantized layers; None means all."""
        return self.kv.layers

    @property
    def label(self) -> str:
        """Name of the configuration: the engine with its flags, else the cache."""
        return self.kv.label if self.engine is None else self.engine.label


KERNEL_CONTEXTS = (8_192, 32_768, 131_072)
"""Tokens at which kernels are timed: from where on the device, not the host, takes the time."""


class KernelTiming(FrozenModel):
    """What trials time kernels for: contexts in tokens, and a model whose layers count beside the trial's own.

    `shape` is a name as `swarm plan` takes it, empty for none. Times come from a clock, so this is no part of a trial's
    identity.
    """

    contexts: tuple[int, ...] = KERNEL_CONTEXTS
    shape: str = ""


TIMED_UNITS = frozenset({"us", "GB/s", "of copy bandwidth", "of roofline", "s", "tok/s", "x", "bytes resident"})


class Metric(FrozenModel):
    """One measured number: `stderr` is the standard error over `n` independent windows or repetitions."""

    name: str
    value: FiniteFloat
    unit: str = ""
    n: int = Field(default=1, ge=1)
    stderr: FiniteFloat | None = None

    @property
    def timed(self) -> bool:
        """Whether it depends on the moment (a clock, resident memory): comparisons of runs leave it out."""
        return self.unit in TIMED_UNITS

    @classmethod
    def of(cls, name: str, value: float, unit: str = "", n: int = 1, stderr: float | None = None) -> Self:
        """The metric of a computed value.

        Raises:
            NonFiniteError: the value or its standard error is NaN or Inf.
        """
        if not isfinite(value) or not isfinite(stderr or 0.0):
            raise NonFiniteError(f"{name} is {value} (standard error {stderr}).", "Use a milder configuration.")
        return cls(name=name, value=float(value), unit=unit, n=n, stderr=stderr)


class Environment(FrozenModel):
    """Where and with what a measurement was made."""

    device: str
    platform: str
    python: str
    versions: dict[str, str]
    blas: str = ""
    git_revision: str = ""
    code_version: str = ""


class Measurement(FrozenModel):
    """The result of a trial.

    `arrays` are named series: per layer (`layer_*`), or per window (`window_*`, in window order: comparisons of
    trials on the same windows are paired through them). `notes` says in words what was scored and how.
    `seconds` are wall times and never part of identity.
    """

    metrics: tuple[Metric, ...]
    arrays: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    notes: str = ""
    environment: Environment
    seconds: dict[str, float] = Field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        for metric in self.metrics:
            if metric.name == name:
                return metric.value
        raise KeyError(name)


class Failure(FrozenModel):
    """How a trial ended without a measurement: the kind of failure (the `outcome` that is recorded) and its cause.

    `seconds` is the wall time that the worker spent on it.
    """

    kind: str
    message: str = ""
    seconds: float = 0.0
