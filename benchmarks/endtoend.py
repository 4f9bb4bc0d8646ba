"""Whole models over a packed cache, against the same models over mlx-lm's caches: decode, prefill, memory.

On a GPU: Llama 3.1 8B and 70B, Gemma 4 31B and Qwen3-Next 80B by their shapes, with random weights of 4 bits made on
the machine, and beside the smallest of them transformers with torch's attention and 16-bit weights; on a CPU the
bundled models. A cache is filled with random vectors up to a depth. Decoding runs through mlx-lm's own
`generate_step`, tokens chosen greedily; prefill is one chunk of a prompt behind the resident tokens, evaluated as
mlx-lm does. The paths of a model do the same work in turns, round by round. Interrupted, a run records the rounds that
were done.

    python -m benchmarks.endtoend --shapes "Llama 3.1 8B" --profile PROFILE.txt     (steps under cProfile, no record)
    python -m benchmarks.endtoend --shapes "Llama 3.1 70B" --work decode --depths 131072 --out PART.json
    python -m benchmarks.endtoend --page PART.json ...                              (parts of one run as one record)
    python -m benchmarks.endtoend --page PREFILL.json --name endtoend-prefill       (a record beside the others)
"""

from __future__ import annotations

import argparse
import cProfile
import pathlib
import pstats
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import _endtoend_torch, _frame
from benchmarks._endtoend_page import OURS, OUT_OF_THE_BOX, SIXTEEN, TORCH, page
from benchmarks._endtoend_rounds import PATHS, REFUSALS, Apart, Job, Path, Round, in_turns, refusal, row
from benchmarks._endtoend_subject import SHAPES, TINY, Subject, where

from swarm.kernels.errors import UsageError

MAX_ROUNDS = {"decode": 12, "prefill": 5}  # of a path at a depth
MAX_SECONDS = {"gpu": 30.0, "cpu": 45.0}  # of the rounds of all paths at a depth; two are made in any case
DEPTHS = {"gpu": (1024, 8192, 32_768, 131_072), "cpu": (2048, 8192)}
RESIDENT = {"gpu": (0, 30_720, 122_880), "cpu": (0, 2048)}
CHUNK = {"gpu": 2048, "cpu": 512}
STEPS = {"gpu": 32, "cpu": 8}
BATCHED_DEPTH, BATCH = 16_384, 8
TORCH_MODELS = ("Llama 3.1 8B",)  # whose 16-bit weights fit beside the others
INTERRUPTED = "The run was interrupted: what it had not come to is missing."

Keep = Callable[[str, dict[str, Any]], None]  # takes what a path gave


@dataclass(frozen=True)
class Choice:
    """Which models, kinds of work, depths and paths are measured; empty for all."""

    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    work: tuple[str, ...] = ()
    depths: tuple[int, ...] = ()

    def takes(self, job: Job) -> bool:
        """Whether a job is measured; `batch` is a kind of work: decoding several sequences at a time."""
        kind = "batch" if job.batch > 1 else job.kind
        return (not self.work or kind in self.work) and (not self.depths or job.depth in self.depths)


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


def jobs(subject: Subject, short: bool, choice: Choice) -> list[Job]:
    """What is measured of a model."""
    place = where()
    made = partial(Job, steps=2 if short else STEPS[place], chunk=16 if short else CHUNK[place])
    found = [made("decode", depth, 1) for depth in ((64,) if short else DEPTHS[place])]
    found += [made("prefill", depth, 1) for depth in ((0, 64) if short else RESIDENT[place])]
    if subject.batched and not short:
        found.append(made("decode", BATCHED_DEPTH, BATCH))
    return [job for job in found if choice.takes(job)]


def paths(subject: Subject, job: Job, weights: int, choice: Choice, stack: ExitStack) -> dict[str, Callable[[], Path]]:
    """The ways to do a job that take turns; what they start ends with the stack."""
    gpu = where() == "gpu"
    found: dict[str, Callable[[], Path]] = {
        name: partial(PATHS[job.kind], subject, path, job, weights)
        for name, path in subject.paths().items()
        if subject.batched or not gpu or name in (OURS, SIXTEEN)  # of the larger models the two that matter
    }
    if not gpu and subject.name != TINY.name:
        found[OUT_OF_THE_BOX] = lambda: stack.enter_context(closing(Apart(subject.name, job)))
    return {name: path for name, path in found.items() if not choice.paths or name in choice.paths}


def work(subject: Subject, job: Job, weights: int, short: bool, choice: Choice, keep: Keep) -> None:
    """Do a job by every path, and hand over a row of each: of the rounds that were done, if interrupted."""
    gpu = where() == "gpu"
    rounds: dict[str, list[Round]] = {}
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        ways = paths(subject, job, weights, choice, stack)
        try:
            for name, done in in_turns(ways, 2 if short else MAX_ROUNDS[job.kind], MAX_SECONDS[where()]):
                if isinstance(done, str):
                    refused[name] = done
                else:
                    rounds.setdefault(name, []).append(done)
        finally:
            for name in ways:
                if name in refused:
                    keep(name, {"refused": refused[name]})
                elif name in rounds:
                    keep(name, row(rounds[name]))
    if gpu and not short and subject.name in TORCH_MODELS and (not choice.paths or TORCH in choice.paths):
        try:
            keep(TORCH, _endtoend_torch.cell(subject.name, job.kind, job.depth, job.batch, job.chunk))
        except REFUSALS as error:
            keep(TORCH, {"refused": refusal(error)})


def kept(
    rows: list[dict[str, Any]], tell: _frame.Tell, model: str, job: Job, weights: int, name: str, found: dict[str, Any]
) -> None:
    """Add what a path gave to the rows of a record."""
    at = {"model": model, "path": name, "job": job.kind, "depth": job.depth, "batch": job.batch}
    rows.append(at | found | {"weights_gb": weights / 1e9})
    ms = found.get("refused") or f"{statistics.median(found['ms']):.2f} ms in {len(found['ms'])} rounds"
    tell(f"{model} {job.kind} at {job.depth} x{job.batch}, {name}: {ms}")


def measure(short: bool, tell: _frame.Tell, choice: Choice) -> _frame.Results:
    """Every path of every model at every depth, as far as they are chosen."""
    import mlx.core as mx

    from swarm.kernels.fused.timing import Roof

    roof = Roof.measured() if where() == "gpu" and not short else None
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    try:
        for subject in subjects(short, choice.models):
            mx.synchronize()
            weights = mx.get_active_memory()
            for job in jobs(subject, short, choice):
                work(subject, job, weights, short, choice, partial(kept, rows, tell, subject.name, job, weights))
            del subject
            mx.clear_cache()
    except KeyboardInterrupt:
        notes.append(INTERRUPTED)
    copy = roof.copy if roof else None
    return {"rows": rows, "device": where(), "copy_gb_per_s": copy, "chunk": CHUNK[where()], "notes": notes}


def profiled(chosen: Sequence[str], depth: int = 1024, steps: int = 20) -> str:
    """Where the host spends its time on steps of ours and of 16 bit, as text: by function, and in all."""
    import io

    import mlx.core as mx

    text = io.StringIO()
    subject = next(iter(subjects(short=where() == "cpu", chosen=chosen)))
    for name in (OURS, SIXTEEN):
        caches = subject.paths()[name]()
        subject.fill(caches, depth, 1)
        built = subject.decode(caches, steps, 1).build_ms
        y = mx.array([[1]])
        text.write(f"{name}: a step's graph is built in {statistics.median(built):.2f} ms\n")
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
    parser.add_argument("--profile", type=pathlib.Path, metavar="FILE")
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
