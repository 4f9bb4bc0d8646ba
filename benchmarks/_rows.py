"""Measurements by many processes: rows of JSON that a run goes on with where the last ended, packed into one file."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _frame

from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.experiments.compiled_kernels import CompiledKernels

DATA = Path(__file__).parent / "data"
FREED_ON_GPU = 2 << 30

Row = dict[str, Any]


def _nothing(models: Sequence[str]) -> Sequence[Any]:  # noqa: ARG001
    return ()


@dataclass(frozen=True)
class Study:
    """A study whose rows processes make, one per job.

    Attributes:
        name: of the file in `data`, and of the module without its underscore.
        key: the fields of a row that tell which job it is of.
        jobs: for some models the values of these fields, which are the arguments of `measure`, in the order of doing.
        measure: makes a row; a function of a module, as processes need it.
        shared: the arguments of `prepare`, which processes take before any job.
        prepare: makes what jobs share; a job that needs what is still being made waits for it.
    """

    name: str
    key: tuple[str, ...]
    jobs: Callable[[Sequence[str]], Sequence[tuple[Any, ...]]]
    measure: Callable[..., Row]
    shared: Callable[[Sequence[str]], Sequence[Any]] = _nothing
    prepare: Callable[[Any], None] | None = None

    @property
    def file(self) -> Path:
        """Where the shipped rows are."""
        return DATA / f"{self.name}.json"

    @property
    def command(self) -> str:
        """What makes them."""
        return f"python -m benchmarks._{self.name}_rows"

    def main(self) -> int:
        """The command line: make the rows, or go on making them, and pack them."""
        from swarm.experiments.models import registry

        parser = argparse.ArgumentParser(prog=self.command)
        parser.add_argument("models", nargs="*", help="bundled models; default: all that are installed")
        parser.add_argument("--folder", type=Path, required=True, help="where rows are kept while they are made")
        parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="default: one per core")
        parser.add_argument("--device", choices=("cpu", "gpu"), help="default: MLX's")
        parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after so long")
        parser.add_argument("--limit", type=int, help="make so many rows, for trying it out")
        parser.add_argument("--file", type=Path, default=self.file, help="where they are packed")
        options = parser.parse_args()
        models = options.models or [info.name for info in registry.catalogue() if info.available]
        for model in models:
            registry.ensure(model)
        done = {self._job(row) for row in self.made(options.folder)}
        jobs = [job for job in self.jobs(models) if job not in done][: options.limit]
        if jobs:
            self._make(models, jobs, options)
        try:
            print(pack(self.made(options.folder), options.folder, options.file))
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        return 0

    def _make(self, models: Sequence[str], jobs: Sequence[Any], options: argparse.Namespace) -> None:
        began = time.monotonic()
        options.folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(
            options.processes, get_context("spawn"), initializer=_begin, initargs=(options.device,)
        ) as pool:
            where = pool.submit(_where, self.name).result() | {"command": self.command, "processes": options.processes}
            _frame.write_json(options.folder / f"where-{os.getpid()}.json", where)
            making = {pool.submit(_do, self.prepare, one): one for one in self.shared(models)} if self.prepare else {}
            waiting = iter(jobs)
            running: set[Future[Row]] = set()
            with (options.folder / f"rows-{os.getpid()}.jsonl").open("a") as file:
                while True:
                    while len(running) < options.processes and time.monotonic() - began < options.seconds:
                        job = next(waiting, None)
                        if job is None:
                            break
                        running.add(pool.submit(_do, self.measure, *job))
                    if not running and not making:
                        return
                    for future in wait({*running, *making}, return_when=FIRST_COMPLETED).done:
                        found = future.result()
                        after = f"{time.monotonic() - began:.0f} s"
                        if future in making:
                            print(f"{after}: shared {making.pop(future)}", flush=True)
                            continue
                        running.remove(future)
                        file.write(json.dumps(found) + "\n")
                        file.flush()
                        print(f"{after}: {self._job(found)} {found.get('seconds')}", flush=True)

    def _job(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.key)

    def made(self, folder: Path) -> list[Row]:
        """The whole lines of all files of a folder."""
        return [row for path in sorted(folder.glob("rows-*.jsonl")) for row in _frame.whole_lines(path)]

    def load(self) -> dict[str, Any]:
        """The shipped rows (`rows`) and where they were made (`made`).

        Raises:
            UsageError: they are missing.
        """
        if not self.file.is_file():
            raise UsageError(f"{self.file} is missing.", f"Make it with `{self.command} --folder FOLDER`.")
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found


def _begin(device: str | None) -> None:
    """Called in every process before its first job."""
    from swarm.kernels import blas

    blas.use_openblas(1)
    import mlx.core as mx

    if device is not None:
        mx.set_default_device(mx.cpu if device == "cpu" else mx.gpu)
    _compiled()


@cache
def _compiled() -> CompiledKernels | None:
    """The compiled kernels of this process, where MLX compiles any."""
    from swarm.experiments.compiled_kernels import CompiledKernels
    from swarm.experiments.environment import device

    return CompiledKernels() if device() == "cuda" else None


def _do(work: Callable[..., Any], *given: Any) -> Any:
    """Called in a process for every job: what it compiles, others need not."""
    kernels = _compiled()
    if kernels is None:
        return work(*given)
    kernels.exchange()
    try:
        return work(*given)
    finally:
        kernels.exchange()


def kept_free() -> int:
    """Bytes of freed memory that a process keeps for its next arrays: more on a GPU, where getting them takes long."""
    from swarm.experiments.environment import device
    from swarm.experiments.measurement.runner import MLX_CACHE_BYTES

    return MLX_CACHE_BYTES if device() == "cpu" else FREED_ON_GPU


def _where(name: str) -> Row:
    """Where rows are made: asked in a process that makes them."""
    benchmark = _frame.Benchmark(name, lambda short, tell: {}, str)  # noqa: ARG005
    return _frame.about(benchmark, short=False, load=os.getloadavg()[0])


def pack(rows: Sequence[Row], folder: Path, file: Path) -> int:
    """Write rows into one file, with where they were made; their number.

    Raises:
        UsageError: there are none.
    """
    if not rows:
        raise UsageError(f"no row is in {folder}.", "Make some first.")
    made = [json.loads(path.read_text()) for path in sorted(folder.glob("where-*.json"))]
    lines = ",\n".join(sorted(json.dumps(row) for row in rows))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{{"made": {json.dumps(made)},\n"rows": [\n{lines}\n]}}\n')
    return len(rows)
