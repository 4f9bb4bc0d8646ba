"""Our divergence of a quantized cache beside llama.cpp's, on the same weights and the same text, keys and values apart.

llama.cpp is the package `llama-cpp-py-sync`, which hands out the logits of every position; its 16-bit run is the one
with an f16 cache. Each compared configuration runs in a process with one core.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks import _frame
from benchmarks._cores import Cores

from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

OURS, THEIRS = "ours", "llama.cpp"
TYPES = {"q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
"""ggml's numbers of the formats."""
F16, F32 = 1, 0
TOLD = ("q8_0", "q4_0")
"""The formats whose differences are taken apart: without rotation, and without flash attention."""
LENGTH, WINDOWS, SCORED = 128, 3, 64
"""Tokens of a window, how many of them, and at how many of the last positions logits are compared."""
MODELS = 3
"""The smallest bundled models."""
FLASH_OFF, FLASH_ON = 0, 1
PACKAGE = "llama-cpp-py-sync"


@dataclass(frozen=True)
class Task:
    """One cache: whose, of which model, in which format keys or values are (or both in 32 bit), rotated or not."""

    who: str
    model: str
    kind: str
    side: str
    rotated: bool
    flash: bool = True


def tasks(models: list[str], short: bool) -> list[Task]:
    """What is measured: every format for both, then what tells why they part, and llama.cpp's own noise."""
    kinds = ["q4_0"] if short else list(TYPES)
    found = [
        Task(who, model, kind, side, True)
        for model in models  # in an order in which a process seldom needs another model
        for who in (OURS, THEIRS)
        for kind in kinds
        for side in ("key", "value")
    ]
    for model in models:
        found += [Task(THEIRS, model, "f32", "both", False)]
        found += [Task(THEIRS, model, kind, "key", False, flash=False) for kind in kinds if kind in TOLD]
        for who in (THEIRS, OURS):
            found += [Task(who, model, k, side, False) for k in kinds if k in TOLD for side in ("key", "value")]
    return found


def references(wanted: list[Task]) -> list[Task]:
    """The 16-bit runs that tasks are compared with."""
    return list(dict.fromkeys(_sixteen_bit(task) for task in wanted))


def _sixteen_bit(task: Task) -> Task:
    return Task(task.who, task.model, "f16", "both", False, task.flash)


@cache
def windows(model: str, short: bool) -> NDArray[np.int32]:
    """The text: token ids [windows, tokens]."""
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.spec import TrialSpec

    subject = Runner().subject(model)
    return subject.windows(TrialSpec(model=model), *((64, 1) if short else (LENGTH, WINDOWS)))


def scored(short: bool) -> int:
    """How many of the last positions of a window are compared."""
    return 16 if short else SCORED


def keep(task: Task, folder: Path, short: bool) -> None:
    """Write the logits of a 16-bit run into a file [windows, positions, vocabulary]."""
    logits = _ours if task.who == OURS else _theirs
    found = [logits(task, window[None], scored(short)) for window in windows(task.model, short)]
    np.save(folder / _file(task), np.concatenate(found))


def _file(task: Task) -> str:
    return f"{task.who} {task.model} {task.flash}.npy"


def run(task: Task, folder: Path, short: bool) -> dict[str, Any]:
    """The divergence of one cache from the 16-bit run of the same program, which is in the folder."""
    from swarm.experiments.measurement import divergence

    begun = time.perf_counter()
    logits = _ours if task.who == OURS else _theirs
    reference = np.load(folder / _file(_sixteen_bit(task)), mmap_mode="r")
    rows = []
    for place, window in enumerate(windows(task.model, short)):
        found = logits(task, window[None], scored(short))
        truth = window[None, -scored(short) + 1 :]
        rows.append(divergence.compare(np.array(reference[place : place + 1, :-1]), found[:, :-1], truth))
    klds = [float(row.kld.mean()) for row in rows]
    return {**asdict(task), "klds": klds, "same_top1": fmean(float(row.same_top1.mean()) for row in rows),
            "seconds": time.perf_counter() - begun}  # fmt: skip


@lru_cache(maxsize=1)
def _loaded(model: str) -> Any:
    from swarm.experiments.models import registry

    return registry.load(model)


def _ours(task: Task, window: NDArray[np.int32], last: int) -> NDArray[np.float32]:
    """Logits of the last positions of a window [1, positions, vocabulary], read at once over our packed cache."""
    import mlx.core as mx

    from swarm.experiments.deploy.generation import sixteen_bit
    from swarm.kernels.model_cache import make_cache
    from swarm.kernels.quant_spec import QuantSpec
    from swarm.kernels.spec import KVSpec

    model = _loaded(task.model).model
    if task.kind == "f16":
        caches = sixteen_bit(model)
    else:
        spec = QuantSpec(method=task.kind, rotation="hadamard" if task.rotated else "none")
        caches = list(make_cache(model, KVSpec(**{task.side: spec})))
    logits = model(mx.array(window), cache=caches)[:, -last:]
    return np.array(logits.astype(mx.float32))


def _theirs(task: Task, window: NDArray[np.int32], last: int) -> NDArray[np.float32]:
    """The same from llama.cpp, in one batch."""
    context = _context(task, window.shape[1])
    lib, ffi = context._lib, context._ffi
    lib.llama_memory_clear(lib.llama_get_memory(context._ctx), True)
    n = window.shape[1]
    batch = lib.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for place, token in enumerate(window[0]):
        batch.token[place], batch.pos[place], batch.n_seq_id[place] = int(token), place, 1
        batch.seq_id[place][0], batch.logits[place] = 0, int(place >= n - last)
    status = lib.llama_decode(context._ctx, batch)
    lib.llama_batch_free(batch)
    if status:
        raise SwarmError(f"llama.cpp cannot read the text: status {status}.", "Update the package.")
    size = lib.llama_vocab_n_tokens(context._vocab)
    rows = (ffi.buffer(lib.llama_get_logits_ith(context._ctx, place), 4 * size) for place in range(n - last, n))
    return np.stack([np.frombuffer(row, np.float32).copy() for row in rows])[None]


@lru_cache(maxsize=1)
def _context(task: Task, length: int) -> Any:
    """llama.cpp with a cache of a task's types; whether it rotates is read from the environment when it is made."""
    from llama_cpp_py_sync import Llama

    from swarm.experiments.models import registry

    os.environ["LLAMA_ATTN_ROT_DISABLE"] = "0" if task.rotated else "1"
    types = {"key": F16, "value": F16}
    if task.kind == "f32":
        types = {"key": F32, "value": F32}
    elif task.kind != "f16":
        types[task.side] = TYPES[task.kind]
    # It leaves embeddings on, and so does this: switched off afterwards, a Qwen2 graph ends 0.11739 by a segfault.
    return Llama(
        str(registry.gguf(task.model)), n_ctx=length, n_batch=length, n_threads=1,
        type_k=types["key"], type_v=types["value"], flash_attn_type=FLASH_ON if task.flash else FLASH_OFF,
    )  # fmt: skip


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Run all caches, as many at a time as there are cores; after `SWARM_BENCH_SECONDS` seconds none is begun."""
    from importlib.util import find_spec

    from swarm.experiments.models import registry

    peer = find_spec("llama_cpp_py_sync") is not None
    if not peer and not short:
        raise SwarmError(f"{PACKAGE} is not installed.", f"Install it: `pip install {PACKAGE}`.")
    models = [info.name for info in registry.catalogue() if info.available][:MODELS]
    wanted = [task for task in tasks(models[: 1 if short else None], short) if peer or task.who == OURS]
    cores = sorted(os.sched_getaffinity(0))[: 1 if short else None]
    deadline = time.time() + float(os.environ.get("SWARM_BENCH_SECONDS", "1e9"))
    rows: list[dict[str, Any]] = []
    refused: dict[Task, str] = {}
    with tempfile.TemporaryDirectory() as folder, Cores(cores) as processes:
        for step, todo in ((keep, references(wanted)), (run, wanted)):
            ready = [task for task in todo if step is keep or _sixteen_bit(task) not in refused]
            for task, found in processes.each(_timely, ready, step, Path(folder), short, deadline):
                if isinstance(found, Exception):
                    refused[task] = f"{type(found).__name__}: {found}"
                elif found is not None:
                    rows.append(found)
                tell(f"{task}: {refused.get(task, found)}")
    for task in wanted:
        reason = refused.get(_sixteen_bit(task))
        if reason is not None:
            refused[task] = f"The 16-bit run that it is compared with failed: {reason}"
    failures = [{**asdict(task), "error": reason} for task, reason in refused.items()]
    sizes = {"length": LENGTH, "windows": WINDOWS, "scored": SCORED}
    return {**sizes, "wanted": len(wanted), "rows": rows, "failures": failures}


def _timely(task: Task, step: Any, folder: Path, short: bool, deadline: float) -> dict[str, Any] | None:
    found: dict[str, Any] | None = step(task, folder, short) if time.time() < deadline else None
    return found


def page(record: _frame.Results) -> str:
    """The page: a table per model, then the reasons with their numbers."""
    results = record["results"]
    rows = {Task(**{k: row[k] for k in Task.__dataclass_fields__}): row for row in results["rows"]}
    models = list(dict.fromkeys(task.model for task in rows))
    parts = [
        _frame.heading(record, "Agreement with llama.cpp"),
        f"KLD from the 16-bit run of the same program, in nats, at the last {results['scored']} positions of "
        f"{results['windows']} windows of {results['length']} tokens, read in one batch; both read the same GGUF "
        "weights (ours in float32) and the same token ids. The ratio is ours over llama.cpp's, with its extremes over "
        f"the windows. {results['wanted'] - len(results['rows'])} of {results['wanted']} runs are missing.\n",
    ]
    for model in models:
        parts.append(f"## {model}\n")
        noise = rows.get(Task(THEIRS, model, "f32", "both", False))
        if noise is not None:
            parts.append(
                f"llama.cpp's own noise, an f32 cache beside an f16 one: KLD {fmean(noise['klds']):.2g}. Ratios of "
                "divergences that are not much larger say nothing.\n"
            )
        parts.append(
            _frame.table(
                ("format", "side", "rotated", "ours", "llama.cpp", "ratio", "without flash attention"),
                _rows(rows, model),
            )
        )
    reasons: dict[tuple[str, str, str], int] = {}
    for row in results["failures"]:
        reason = (row["who"], row["model"], row["error"])
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        lines = [f"- {who}, {model}, {count} runs: {error}\n" for (who, model, error), count in reasons.items()]
        parts.append("## Runs that failed\n\n" + "".join(lines))
    return "\n".join([*parts, REASONS])


def _rows(rows: dict[Task, dict[str, Any]], model: str) -> Iterator[tuple[object, ...]]:
    for rotated in (True, False):
        for kind in TYPES:
            for side in ("key", "value"):
                ours, theirs = (rows.get(Task(who, model, kind, side, rotated)) for who in (OURS, THEIRS))
                if ours is None or theirs is None:
                    continue
                plain = rows.get(Task(THEIRS, model, kind, side, rotated, flash=False))
                each = [a / max(b, 1e-12) for a, b in zip(ours["klds"], theirs["klds"], strict=True)]
                a, b = fmean(ours["klds"]), fmean(theirs["klds"])
                yield (
                    kind, side, "yes" if rotated else "no", f"{a:.3g}", f"{b:.3g}",
                    f"{a / max(b, 1e-12):.2f} ({min(each):.2f} to {max(each):.2f})",
                    "" if plain is None else f"{fmean(plain['klds']):.3g}",
                )  # fmt: skip


REASONS = """## Where they part

- llama.cpp rotates quantized keys and values by a Hadamard matrix without random signs, keys by the largest power of
  two that divides the head size, values in blocks of 64; ours has random signs and the largest power of two for both.
  Rows without rotation leave that out.
- Its flash attention on the CPU rounds queries to 8 bits (blocks of 32) before it multiplies them with quantized keys,
  so that its divergence of keys holds that rounding too; values are multiplied in 16 bit or more. The last column is
  its attention without flash, for keys.
- Its matrix products round activations to 8 bits as well, in the 16-bit run and in the quantized one: small differences
  of the cache move them over rounding borders. The f32 cache beside the f16 one shows how much that makes.
"""

BENCHMARK = _frame.Benchmark("agreement", measure, page, (PACKAGE,))

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
