"""Whole models over a packed cache, against the same models over mlx-lm's caches: decode, prefill, memory.

On a GPU: Llama 3.1 8B and 70B, Gemma 4 31B and Qwen3-Next 80B by their shapes, with random weights of 4 bits made on
the machine, and beside the smallest of them transformers with torch's attention and 16-bit weights; on a CPU the
bundled models. A cache is filled with random vectors up to a depth. Decoding runs through mlx-lm's own
`generate_step`, tokens chosen greedily; prefill is one chunk of a prompt behind the resident tokens, evaluated as
mlx-lm does. All paths of a model run in turns in one process.

    python -m benchmarks.endtoend --shapes "Llama 3.1 8B" --profile PROFILE.txt     (steps under cProfile, no record)
    python -m benchmarks.endtoend --shapes "Llama 3.1 70B" --work decode --depths 131072 --out PART.json
    python -m benchmarks.endtoend --page PART.json ...                              (parts of one run as one record)
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import _endtoend_torch, _frame
from benchmarks._endtoend_page import OURS, OUT_OF_THE_BOX, SIXTEEN, TORCH, page
from benchmarks._endtoend_subject import SHAPES, TINY, Caches, Subject, where

from swarm.kernels.errors import SwarmError, UsageError

MAX_ROUNDS = 5  # of a cell
MAX_SECONDS = 5.0  # of the rounds of a cell; two are made in any case
DEPTHS = {"gpu": (1024, 8192, 32_768, 131_072), "cpu": (2048, 8192)}
RESIDENT = {"gpu": (0, 30_720, 122_880), "cpu": (0, 2048)}
CHUNK = {"gpu": 2048, "cpu": 512}
STEPS = {"gpu": 64, "cpu": 16}
BATCHED_DEPTH, BATCH = 16_384, 8
TORCH_MODELS = ("Llama 3.1 8B",)  # whose 16-bit weights fit beside the others


@dataclass(frozen=True)
class Choice:
    """Which models, kinds of work, depths and paths are measured; empty for all."""

    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    work: tuple[str, ...] = ()
    depths: tuple[int, ...] = ()

    def takes(self, job: str, depth: int, batch: int) -> bool:
        """Whether a cell is measured; `batch` is a kind of work: decoding several sequences at a time."""
        kind = "batch" if batch > 1 else job
        return (not self.work or kind in self.work) and (not self.depths or depth in self.depths)


def cell(subject: Subject, path: Callable[[], Caches], job: str, depth: int, batch: int, short: bool) -> dict[str, Any]:
    """Milliseconds of every round, and gigabytes: of weights and cache, and at the peak."""
    import mlx.core as mx

    place = where()
    mx.clear_cache()
    caches = path()
    if depth:
        subject.fill(caches, depth, batch)
    held = mx.get_active_memory()
    steps, chunk, rounds = (2, 16, 2) if short else (STEPS[place], CHUNK[place], MAX_ROUNDS)

    def work() -> float:
        return subject.decode(caches, steps, batch) if job == "decode" else subject.prefill(caches, chunk)

    work()  # compiles kernels
    times: list[float] = []
    peak = 0
    started = time.perf_counter()
    while len(times) < 2 or (len(times) < rounds and time.perf_counter() - started < MAX_SECONDS):
        if job == "prefill":  # at the same depth again
            caches = path()
            if depth:
                subject.fill(caches, depth, batch)
        mx.reset_peak_memory()
        times.append(work())
        peak = max(peak, mx.get_peak_memory())
    cached = sum(cache.nbytes for cache in caches)
    return {"ms": times, "active_gb": held / 1e9, "peak_gb": peak / 1e9, "cache_gb": cached / 1e9}


def out_of_the_box(name: str, job: str, depth: int, answer: Connection) -> None:
    """Send the `cell` of mlx-lm alone: MLX's own BLAS and activations, weights and cache in 16 bit."""
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    from swarm.experiments.models import registry

    model, _ = load_model(registry.ensure(name))
    answer.send(cell(Subject.over(model, name), lambda: make_prompt_cache(model), job, depth, 1, short=False))


def apart(name: str, job: str, depth: int) -> dict[str, Any]:
    """`out_of_the_box` in a process of its own, which has loaded no other BLAS."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=out_of_the_box, args=(name, job, depth, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        return {"refused": "its process ended without an answer"}
    finally:
        process.join()
    return found


def subjects(short: bool, chosen: Sequence[str]) -> Iterable[Subject]:
    """The models, one at a time."""
    if short:
        yield Subject.of_shape(TINY)
    elif where() == "gpu":
        for shape in SHAPES:
            if not chosen or shape.name in chosen:
                yield Subject.of_shape(shape)
    else:
        from swarm.experiments.models import registry

        for name in chosen or registry.default_models():
            yield Subject.bundled(name)


def cells(subject: Subject, short: bool, choice: Choice) -> Iterable[tuple[str, int, int]]:
    """What is measured of a model: job, depth and batch."""
    place = where()
    jobs = [("decode", depth, 1) for depth in ((64,) if short else DEPTHS[place])]
    jobs += [("prefill", depth, 1) for depth in ((0, 64) if short else RESIDENT[place])]
    if subject.batched and not short:
        jobs.append(("decode", BATCHED_DEPTH, BATCH))
    return [job for job in jobs if choice.takes(*job)]


def measure(short: bool, tell: _frame.Tell, choice: Choice) -> _frame.Results:
    """Every path of every model at every depth, as far as they are chosen."""
    import mlx.core as mx

    from swarm.kernels.fused.timing import Roof

    place = where()
    gpu = place == "gpu"
    roof = Roof.measured() if gpu and not short else None
    rows: list[dict[str, Any]] = []
    for subject in subjects(short, choice.models):
        weights = mx.get_active_memory()
        for job, depth, batch in cells(subject, short, choice):
            made = {
                name: partial(cell, subject, path, job, depth, batch, short)
                for name, path in subject.paths().items()
                if subject.batched or not gpu or name in (OURS, SIXTEEN)  # of the larger models the two that matter
            }
            if not gpu and not short:
                made[OUT_OF_THE_BOX] = partial(apart, subject.name, job, depth)
            if gpu and not short and subject.name in TORCH_MODELS:
                made[TORCH] = partial(_endtoend_torch.cell, subject.name, job, depth, batch, CHUNK[place])
            for name, run in made.items():
                if choice.paths and name not in choice.paths:
                    continue
                row = {"model": subject.name, "path": name, "job": job, "depth": depth, "batch": batch}
                try:
                    row |= run()
                except (RuntimeError, ValueError, TypeError, SwarmError) as error:
                    row |= {"refused": str(error).splitlines()[0][:120]}
                rows.append(row | {"weights_gb": weights / 1e9})
                shown = row.get("refused") or f"{statistics.median(row['ms']):.2f} ms, peak {row['peak_gb']:.1f} GB"
                tell(f"{subject.name} {job} at {depth} x{batch}, {name}: {shown}")
        del subject
        mx.clear_cache()
    return {"rows": rows, "device": place, "copy_gb_per_s": roof.copy if roof else None, "chunk": CHUNK[place]}


def profiled(chosen: Sequence[str], depth: int = 1024, steps: int = 20) -> str:
    """Where the host spends its time on steps of ours and of 16 bit, as text: by function, and in all."""
    import io

    import mlx.core as mx

    text = io.StringIO()
    subject = next(iter(subjects(short=where() == "cpu", chosen=chosen)))
    for name in (OURS, SIXTEEN):
        caches = subject.paths()[name]()
        subject.fill(caches, depth, 1)
        subject.decode(caches, 8, 1)
        y, built = mx.array([[1]]), []
        for _ in range(steps):
            started = time.perf_counter()
            y = mx.argmax(subject.model(y, cache=caches)[:, -1:], axis=-1)
            built.append(time.perf_counter() - started)
            mx.eval(y)
        text.write(f"{name}: a step's graph is built in {statistics.median(built) * 1e3:.2f} ms\n")
        with cProfile.Profile() as profile:
            for _ in range(steps):
                y = mx.argmax(subject.model(y, cache=caches)[:, -1:], axis=-1)
                mx.eval(y)
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(35)
    return text.getvalue()


def benchmark(choice: Choice) -> _frame.Benchmark:
    """The benchmark of a choice."""
    packages = ("mlx-cuda-13", "transformers", "torch")
    return _frame.Benchmark("endtoend", lambda short, tell: measure(short, tell, choice), page, packages)


BENCHMARK = benchmark(Choice())


def main(arguments: Sequence[str] | None = None) -> int:
    """The common command line, with a choice of what is measured, and a profile."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--shapes", default="")
    parser.add_argument("--work", nargs="+", choices=("decode", "prefill", "batch"), default=())
    parser.add_argument("--depths", nargs="+", type=int, default=())
    parser.add_argument("--paths", nargs="+", default=(), help="names as the page has them")
    parser.add_argument("--profile", type=Path, metavar="FILE")
    options, rest = parser.parse_known_args(arguments)
    chosen = [name for name in options.shapes.split(",") if name]
    known = [shape.name for shape in SHAPES]
    if where() == "gpu" and (unknown := sorted(set(chosen) - set(known))):
        error = UsageError(f"no shape {unknown[0]!r}.", f"Known: {', '.join(known)}.")
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.profile:
        options.profile.write_text(profiled(chosen))
        return 0
    return benchmark(Choice(tuple(chosen), tuple(options.paths), tuple(options.work), tuple(options.depths))).main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
