"""Rounds of the same work by several paths of a model, in turns, so that a busy host meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks._endtoend_subject import Caches, Subject, where

from swarm.kernels.errors import SwarmError

REFUSALS = (RuntimeError, ValueError, TypeError, SwarmError)  # with which a path says that it cannot do the work


@dataclass(frozen=True)
class Job:
    """Work at a depth: `decode` of `steps` tokens for `batch` sequences, or `prefill` of `chunk` tokens."""

    kind: str
    depth: int
    batch: int
    steps: int
    chunk: int


@dataclass(frozen=True)
class Round:
    """One round: milliseconds per step, median and mean, of which Python builds a graph; and bytes of MLX's.

    `active` and `peak` are those of weights and of this path alone. A chunk of a prompt is one step.
    """

    ms: float
    mean_ms: float
    build_ms: float
    active: int
    peak: int
    cached: int


class Path(Protocol):
    """One way to do a job."""

    def round(self) -> Round:
        """Do it once more."""


class Decoding:
    """Caches at a depth that grow by some tokens in every round."""

    def __init__(self, subject: Subject, path: Callable[[], Caches], job: Job, weights: int) -> None:
        self._subject, self._job, self._weights = subject, job, weights
        self._caches = _filled(subject, path, job)

    def round(self) -> Round:
        """Some steps. What other paths hold meanwhile is taken off the peak."""
        import mlx.core as mx

        own = self._weights + _nbytes(self._caches)
        others = _active() - own
        mx.reset_peak_memory()
        steps = self._subject.decode(self._caches, self._job.steps, self._job.batch)
        peak = mx.get_peak_memory() - others
        return Round(
            statistics.median(steps.ms),
            steps.mean,
            statistics.median(steps.build_ms),
            own,
            peak,
            _nbytes(self._caches),
        )


class Prefill:
    """A chunk of a prompt behind a depth, on new caches in every round."""

    def __init__(self, subject: Subject, path: Callable[[], Caches], job: Job, weights: int) -> None:
        self._subject, self._path, self._job, self._weights = subject, path, job, weights

    def round(self) -> Round:
        """One chunk."""
        import mlx.core as mx

        others = _active() - self._weights
        caches = _filled(self._subject, self._path, self._job)
        active = _active() - others
        mx.reset_peak_memory()
        took = self._subject.prefill(caches, self._job.chunk)
        peak = mx.get_peak_memory() - others
        found = Round(took, took, 0.0, active, peak, _nbytes(caches))
        del caches
        mx.clear_cache()
        return found


PATHS: Mapping[str, Callable[[Subject, Callable[[], Caches], Job, int], Path]] = {
    "decode": Decoding,
    "prefill": Prefill,
}


def _active() -> int:
    import mlx.core as mx

    mx.synchronize()
    time.sleep(0.02)  # on CUDA another thread gives memory back
    return mx.get_active_memory()


def _filled(subject: Subject, path: Callable[[], Caches], job: Job) -> Caches:
    import mlx.core as mx

    caches = path()
    if job.depth:
        subject.fill(caches, job.depth, job.batch)
    mx.clear_cache()
    return caches


def _nbytes(caches: Caches) -> int:
    return sum(cache.nbytes for cache in caches)


def _out_of_the_box(name: str, job: Job, calls: Connection) -> None:
    """Answer every call with a round of mlx-lm alone: MLX's own BLAS and activations, weights and cache in 16 bit."""
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    from swarm.experiments.models import registry

    model, _ = load_model(registry.ensure(name))
    path = PATHS[job.kind](Subject.over(model, name), lambda: make_prompt_cache(model), job, 0)
    while calls.recv():
        calls.send(path.round())


class Apart:
    """mlx-lm out of the box in a process of its own, which has loaded no other BLAS."""

    def __init__(self, name: str, job: Job) -> None:
        context = get_context("spawn")
        self._calls, theirs = context.Pipe()
        self._process = context.Process(target=_out_of_the_box, args=(name, job, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def round(self) -> Round:
        """A round of that process.

        Raises:
            RuntimeError: it has ended.
        """
        try:
            self._calls.send(True)
            found: Round = self._calls.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("its process ended without an answer") from error
        return found

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def in_turns(
    makers: Mapping[str, Callable[[], Path]], rounds: int, seconds: float
) -> Iterator[tuple[str, Round | str]]:
    """Rounds by path, or why a path does not run; the first of each, which compiles kernels, is left out.

    All paths stay in memory. After two rounds none begins once `seconds` are over.
    """
    left = dict(makers)
    paths: dict[str, Path] = {}
    started = time.perf_counter()
    for turn in range(rounds + 1):
        if turn == 1:
            started = time.perf_counter()
        if turn > 2 and time.perf_counter() - started > seconds:
            return
        for name, make in list(left.items()):
            try:
                if turn == 0:
                    paths[name] = make()
                found = paths[name].round()
            except REFUSALS as error:
                del left[name]
                paths.pop(name, None)
                yield name, refusal(error)
                continue
            if turn:
                yield name, found


def refusal(error: Exception) -> str:
    """What an error says, in one line of a table."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def row(rounds: Sequence[Round]) -> dict[str, Any]:
    """What a record holds of the rounds of a path; on a CPU without what only MLX's arrays would tell."""
    found: dict[str, Any] = {
        "ms": [done.ms for done in rounds],
        "mean_ms": [done.mean_ms for done in rounds],
        "cache_gb": max(done.cached for done in rounds) / 1e9,
    }
    if where() == "gpu":
        found["active_gb"] = rounds[0].active / 1e9
        found["peak_gb"] = max(done.peak for done in rounds) / 1e9
        if any(done.build_ms for done in rounds):
            found["build_ms"] = [done.build_ms for done in rounds]
    return found
