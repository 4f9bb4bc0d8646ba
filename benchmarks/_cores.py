"""Processes that each have a core to themselves: one that dies takes with it only what it was computing."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from swarm.kernels.errors import SwarmError

T = TypeVar("T")


class Cores:
    """A process per core, kept between tasks so that what it has loaded serves the next one; closed on exit."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._processes = get_context("forkserver")
        self._threads = ThreadPoolExecutor(len(cores))
        self._pools = {core: self._pool(core) for core in cores}
        self._free: SimpleQueue[int] = SimpleQueue()
        for core in cores:
            self._free.put(core)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        for pool in self._pools.values():
            pool.shutdown()

    def each(self, step: Callable[..., Any], tasks: Sequence[T], *arguments: Any) -> Iterator[tuple[T, Any]]:
        """Every task with what `step(task, *arguments)` gives in a process, or with the exception; first done first.

        A process that dies makes a SwarmError of its task; the core's next task gets a new process.
        """
        waiting = {self._threads.submit(self._run, step, task, *arguments): task for task in tasks}
        for done in as_completed(waiting):
            error = done.exception()
            yield waiting[done], done.result() if error is None else error

    def _run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        core = self._free.get()
        try:
            return self._pools[core].submit(step, *arguments).result()
        except BrokenProcessPool:
            self._pools[core].shutdown()
            self._pools[core] = self._pool(core)
            raise SwarmError("its process died without an answer.", "Its own message is above.") from None
        finally:
            self._free.put(core)

    def _pool(self, core: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._processes, initializer=_begin, initargs=(core,))


def _begin(core: int) -> None:
    faulthandler.enable()  # a segfault tells where
    os.sched_setaffinity(0, {core})
