"""What runs in a worker process: one runner that keeps its model in memory, and that never sees the store."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from swarm.experiments.compiled_kernels import CompiledKernels
from swarm.experiments.environment import code_version
from swarm.experiments.spec import Device, Failure, KernelTiming, Measurement, TrialSpec
from swarm.kernels import blas
from swarm.kernels.errors import SwarmError, TrialError

USED_SHARE, CACHED_SHARE = 0.9, 0.3
"""Of its part of a GPU's memory a worker uses so much before MLX frees what it keeps, and keeps so much freed."""


@dataclass(frozen=True)
class WorkerPlan:
    """What every worker is told when it starts.

    `hidden` are folders of the driver that Ray puts on the workers' module path and that must not be there: in a
    working copy our top-level folders would shadow packages of the same names. `models` and `corpus_digest` are what
    trials will need: a worker says when it starts what its node lacks of it. `gpu_share` is its part of a GPU,
    0 without one.
    """

    device: Device = "cpu"
    gpu_share: float = 0.0
    models: tuple[str, ...] = ()
    corpus: Path | None = None
    corpus_digest: str = ""
    hidden: tuple[str, ...] = ()
    kernels: KernelTiming = field(default_factory=KernelTiming)


@dataclass(frozen=True)
class Greeting:
    """What a worker says when it is up; `lacks` is why its node cannot run the trials, empty when it can."""

    node: str
    code_version: str
    lacks: str = ""


@dataclass(frozen=True)
class Prepared:
    """What trials share was made, or could not be; it took so long."""

    seconds: float


class Worker:
    """The class of the Ray actors."""

    def __init__(self, plan: WorkerPlan) -> None:
        sys.path[:] = [path for path in sys.path if path not in plan.hidden]
        from swarm.experiments.measurement.runner import Runner

        self._lacks = ""
        self._compiled: CompiledKernels | None = None
        try:
            blas.use_openblas(1)  # before MLX is imported
            cache = _settle_mlx(plan)
            self._runner = Runner(corpus=plan.corpus, kernels=plan.kernels, cache=cache)
            self._lacks = lacks(plan, self._runner.corpus.digest)
            if plan.models:
                import mlx_lm  # noqa: F401 - takes seconds, in which others capture
            if plan.device == "cuda" and not self._lacks:
                self._compiled = CompiledKernels()
        except SwarmError as error:
            self._lacks = str(error)

    def greet(self) -> Greeting:
        """Answer once the worker can run trials, or say why it cannot."""
        return Greeting(platform.node(), code_version(), self._lacks)

    def prepare(self, spec: TrialSpec) -> Prepared:
        """Make what trials like this one share. What goes wrong is told by the trial itself, which tries again."""
        start = time.perf_counter()
        self._exchange()
        with suppress(Exception):
            self._runner.prepare(spec)
        self._exchange()
        return Prepared(time.perf_counter() - start)

    def run(self, spec: TrialSpec) -> Measurement | Failure:
        """Run a trial; every error that leaves the process alive is returned as a failure."""
        start = time.perf_counter()
        self._exchange()
        try:
            return self._runner.run(spec)
        except Exception as error:
            return _failure(error, time.perf_counter() - start)
        finally:
            self._exchange()

    def _exchange(self) -> None:
        if self._compiled is not None:
            self._compiled.exchange()


def _settle_mlx(plan: WorkerPlan) -> int:
    """Make MLX compute on the plan's device, within the worker's part of its memory; bytes that it may keep freed."""
    import mlx.core as mx

    from swarm.experiments.measurement.runner import MLX_CACHE_BYTES

    if plan.device == "cpu":
        mx.set_default_device(mx.cpu)  # also on a node with a GPU
    part = plan.gpu_share * float(mx.device_info().get("total_memory", 0)) if plan.device == "cuda" else 0.0
    if not part:
        return MLX_CACHE_BYTES
    mx.set_memory_limit(int(USED_SHARE * part))
    return int(CACHED_SHARE * part)


def lacks(plan: WorkerPlan, corpus_digest: str) -> str:
    """What this node lacks of what the trials need, in a sentence; empty when nothing."""
    from swarm.experiments.environment import device
    from swarm.experiments.models import registry

    if device() != plan.device:
        return f"MLX computes on {device()} there, and the trials are for {plan.device}."
    if plan.corpus_digest and corpus_digest != plan.corpus_digest:
        return "its text is another one: give --corpus a file that is the same on every node."
    missing = [name for name in plan.models if not registry.describe(name).available]
    return f"it has no model {', '.join(missing)}." if missing else ""


def _failure(error: Exception, seconds: float) -> Failure:
    """How a trial is recorded that ended with an exception."""
    if isinstance(error, SwarmError):
        kind = error.outcome if isinstance(error, TrialError) else "error"
        return Failure(kind=kind, message=str(error), seconds=seconds)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{type(error).__name__}: {error} ({frame.name}, line {frame.lineno} of {frame.filename})"
    return Failure(kind="error", message=message, seconds=seconds)
