"""What runs in a worker process: one runner with its resident model. Knows experiments and kernels, never the store."""

from __future__ import annotations

import platform
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError, TrialError

if TYPE_CHECKING:
    from swarm.experiments.spec import Device, Measurement, TrialSpec


@dataclass(frozen=True)
class Plan:
    """What every worker is told when it starts.

    `hidden` are folders of the driver that Ray puts on the workers' module path and that must not be there: in a
    working copy our top-level folders would shadow packages of the same names. `models` and `corpus_digest` are what
    trials will need: a worker says when it starts what its node lacks of it.
    """

    device: Device = "cpu"
    models: tuple[str, ...] = ()
    corpus: Path | None = None
    corpus_digest: str = ""
    cache_dir: Path | None = None
    threads: int = 1
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Greeting:
    """What a worker says when it is up; `lacks` is why its node cannot run the trials, empty when it can."""

    node: str
    python: str
    code_version: str
    lacks: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with a measurement, or with the kind of failure and its message."""

    kind: str
    measurement: Measurement | None = None
    message: str = ""
    seconds: float = 0.0


class Worker:
    """The class of the Ray actors."""

    def __init__(self, plan: Plan) -> None:
        sys.path[:] = [path for path in sys.path if path not in plan.hidden]
        from swarm.experiments.measurement.runner import Runner

        self._plan = plan
        self._lacks = ""
        try:
            self._runner = Runner(cache_dir=plan.cache_dir, corpus=plan.corpus, threads=plan.threads)
            compute_on(plan.device)
            self._lacks = lacks(plan, self._runner.corpus.digest)
        except SwarmError as error:
            self._lacks = str(error)

    def greet(self) -> Greeting:
        """Answer once the worker can run trials, or say why it cannot."""
        from swarm.experiments.spec import code_version

        return Greeting(platform.node(), platform.python_version(), code_version(), self._lacks)

    def run(self, spec: TrialSpec) -> Outcome:
        """Run a trial; every failure that leaves the process alive is an outcome."""
        start = time.perf_counter()
        try:
            measurement = self._runner.run(spec)
        except Exception as error:
            kind, message = _classify(error)
            return Outcome(kind, None, message, time.perf_counter() - start)
        return Outcome("ok", measurement, "", time.perf_counter() - start)


def compute_on(device: Device) -> None:
    """Keep off the GPU of a node that has one when the trials are for the CPU."""
    if device == "cpu":
        import mlx.core as mx

        mx.set_default_device(mx.cpu)


def lacks(plan: Plan, corpus_digest: str) -> str:
    """What this node lacks of what the trials need, in a sentence; empty when nothing."""
    from swarm.experiments.environment import device
    from swarm.experiments.models import registry

    if device() != plan.device:
        return f"MLX computes on {device()} there, and the trials are for {plan.device}."
    if plan.corpus_digest and corpus_digest != plan.corpus_digest:
        return "its text is another one: give --corpus a file that is the same on every node."
    missing = [name for name in plan.models if not registry.describe(name).available]
    return f"it has no model {', '.join(missing)}." if missing else ""


def _classify(error: Exception) -> tuple[str, str]:
    """The recorded outcome of an exception and the message that is kept with it."""
    if isinstance(error, TrialError):
        return error.outcome, str(error)
    if isinstance(error, SwarmError):
        return "error", str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return "error", f"{type(error).__name__}: {error} ({frame.name}, line {frame.lineno} of {frame.filename})"
