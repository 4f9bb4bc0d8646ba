"""Whole models over a packed cache, against the same models over mlx-lm's caches: decode, prefill, memory.

On a GPU: Llama 3.1 8B and 70B by their shapes, with random weights of 4 bits made on the machine; on a CPU the bundled
models. A cache is filled with random vectors up to a depth. Decoding runs through mlx-lm's own `generate_step`, tokens
chosen greedily; prefill is one chunk of a prompt behind the resident tokens, evaluated as mlx-lm does. All paths of a
model run in turns in one process.

    python -m benchmarks.endtoend --shapes "Llama 3.1 8B" --profile PROFILE.txt     (steps under cProfile, no record)
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import _frame
from benchmarks._endtoend_page import OURS, OUT_OF_THE_BOX, OWN_SIXTEEN, SIXTEEN, page

from swarm.kernels.errors import SwarmError, UsageError
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec, QuantSpec

GROUP, BITS = 64, 4  # of the random weights
FORMATS = {OURS: QuantSpec(method="affine"), "ours, q8_0": QuantSpec(method="q8_0")}
MLX_LM_BITS = {"mlx-lm 8 bit": 8, "mlx-lm 4 bit": 4}
FILL_TOKENS = 8192  # with which a cache is filled at a time
MAX_ROUNDS = 5  # of a cell
MAX_SECONDS = 10.0  # of the rounds of a cell; two are made in any case
DEPTHS = {"gpu": (1024, 8192, 32_768, 131_072), "cpu": (2048, 8192)}
RESIDENT = {"gpu": (0, 30_720, 122_880), "cpu": (0, 2048)}
CHUNK = {"gpu": 2048, "cpu": 512}
STEPS = {"gpu": 64, "cpu": 16}
BATCHED_DEPTH, BATCH = 16_384, 8

Array = Any
Caches = list[Any]


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes; `paths` that run, `depths` to decode at."""

    name: str
    hidden: int
    layers: int
    inner: int
    q_heads: int
    kv_heads: int
    vocabulary: int = 128_256
    batched: bool = True


SHAPES = (
    Shape("Llama 3.1 8B", 4096, 32, 14_336, 32, 8),
    Shape("Llama 3.1 70B", 8192, 80, 28_672, 64, 8, batched=False),
)
TINY = Shape("tiny Llama", 256, 2, 512, 4, 2, 1000)


@dataclass
class Subject:
    """A model under test, and how to fill a cache of one of its layers with random vectors."""

    name: str
    model: Any
    kv_heads: list[int]
    head_dims: list[int]
    dtype: Any
    vocabulary: int
    batched: bool = False
    kept: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def of_shape(cls, shape: Shape) -> Subject:
        """Random weights of 4 bits whose products have the size of a trained model's."""
        import mlx.core as mx
        from mlx import nn
        from mlx.utils import tree_map_with_path
        from mlx_lm.models import llama

        args = llama.ModelArgs(
            model_type="llama", hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            intermediate_size=shape.inner, num_attention_heads=shape.q_heads, num_key_value_heads=shape.kv_heads,
            rms_norm_eps=1e-5, vocab_size=shape.vocabulary, rope_theta=500_000.0, tie_word_embeddings=False,
        )  # fmt: skip
        model = llama.Model(args)
        dtype = mx.float16 if where() == "gpu" else mx.float32  # in which models run there

        def drawn(_: str, module: Any) -> Any:
            if not isinstance(module, (nn.Linear, nn.Embedding)):
                return module
            rows, columns = module.weight.shape
            kind = nn.QuantizedLinear if isinstance(module, nn.Linear) else nn.QuantizedEmbedding
            sizes = (columns, rows) if kind is nn.QuantizedLinear else (rows, columns)
            options = {"bias": False} if kind is nn.QuantizedLinear else {}
            made = kind(*sizes, group_size=GROUP, bits=BITS, **options)
            scale = (1 if kind is nn.QuantizedEmbedding else columns**-0.5) / 4.6  # uniform codes deviate by 4.6
            halves = mx.random.randint(0, 2**16, (rows, columns * BITS // 16)).astype(mx.uint16)
            made.weight = halves.view(mx.uint32)
            made.scales = mx.full((rows, columns // GROUP), scale, dtype)
            made.biases = mx.full((rows, columns // GROUP), -7.5 * scale, dtype)
            mx.eval(made.parameters())
            return made

        leaves = tree_map_with_path(drawn, model.leaf_modules(), is_leaf=nn.Module.is_module)
        model.update_modules(leaves)
        model.set_dtype(dtype)
        mx.eval(model.parameters())
        dims = [shape.hidden // shape.q_heads] * shape.layers
        heads = [shape.kv_heads] * shape.layers
        return cls(shape.name, model, heads, dims, dtype, shape.vocabulary, shape.batched)

    @classmethod
    def bundled(cls, name: str) -> Subject:
        """A bundled model, as every command loads it."""
        from swarm.experiments.models import registry

        loaded = registry.load(name)
        info = loaded.info
        return cls.over(loaded.model, info)

    @classmethod
    def over(cls, model: Any, info: Any) -> Subject:
        """A bundled model that is loaded, and its facts."""
        layers, dtype = info.n_layers, model.parameters()["model"]["norm"]["weight"].dtype
        return cls(info.name, model, [info.n_kv_heads] * layers, [info.head_dim] * layers, dtype, 1000)

    def fill(self, caches: Caches, tokens: int, batch: int) -> None:
        """Append random keys and values to every cache."""
        import mlx.core as mx

        for i, cache in enumerate(caches):
            done = 0
            while done < tokens:
                size = min(FILL_TOKENS, tokens - done)
                x = mx.random.normal((2, batch, self.kv_heads[i], size, self.head_dims[i])).astype(self.dtype)
                append = cache.append if hasattr(cache, "append") else cache.update_and_fetch
                append(x[0], x[1])
                mx.eval(cache.state)
                done += size

    def paths(self) -> dict[str, Callable[[], Caches]]:
        """Ways to cache, ours first."""
        from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache

        found: dict[str, Callable[[], Caches]] = {
            name: lambda spec=spec: list(make_cache(self.model, KVSpec(key=spec, value=spec)))
            for name, spec in FORMATS.items()
        }
        if where() == "cpu":
            found[OWN_SIXTEEN] = lambda: list(make_cache(self.model))
        found[SIXTEEN] = lambda: make_prompt_cache(self.model)
        if all(kind == "KVCache" for kind in {type(cache).__name__ for cache in make_prompt_cache(self.model)}):
            for name, bits in MLX_LM_BITS.items():
                found[name] = lambda bits=bits: [QuantizedKVCache(64, bits) for _ in self.kv_heads]
        return found

    def decode(self, caches: Caches, steps: int, batch: int) -> float:
        """Milliseconds per step of greedy decoding."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        if batch == 1:
            tokens = generate_step(mx.array([1]), self.model, prompt_cache=caches, max_tokens=steps + 4)
            stamps = [time.perf_counter() for _ in tokens]
            return (stamps[-1] - stamps[3]) / (len(stamps) - 4) * 1e3
        y = mx.ones((batch, 1), mx.int32)
        for step in range(steps + 4):
            if step == 4:
                mx.eval(y)
                started = time.perf_counter()
            y = mx.argmax(self.model(y, cache=caches)[:, -1:], axis=-1)
            mx.async_eval(y)
        mx.eval(y)
        return (time.perf_counter() - started) / steps * 1e3

    def prefill(self, caches: Caches, chunk: int) -> float:
        """Milliseconds that a chunk of a prompt takes behind what the caches hold."""
        import mlx.core as mx

        tokens = mx.random.randint(0, self.vocabulary, (1, chunk))
        mx.eval(tokens)
        mx.synchronize()
        started = time.perf_counter()
        self.model(tokens, cache=caches)
        mx.eval([cache.state for cache in caches])
        mx.synchronize()
        return (time.perf_counter() - started) * 1e3


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

    info = registry.describe(name)
    model, _ = load_model(registry.ensure(name))
    answer.send(cell(Subject.over(model, info), lambda: make_prompt_cache(model), job, depth, 1, short=False))


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


def where() -> str:
    """`gpu` or `cpu`: what MLX computes on."""
    import mlx.core as mx

    return "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


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


def measure(short: bool, tell: _frame.Tell, chosen: Sequence[str] = ()) -> _frame.Results:
    """Every path of every model at every depth."""
    import mlx.core as mx

    from swarm.kernels.fused.timing import Roof

    place = where()
    gpu = place == "gpu"
    roof = Roof.measured() if gpu and not short else None
    rows: list[dict[str, Any]] = []
    for subject in subjects(short, chosen):
        weights = mx.get_active_memory()
        jobs = [("decode", depth, 1) for depth in ((64,) if short else DEPTHS[place])]
        jobs += [("prefill", depth, 1) for depth in ((0, 64) if short else RESIDENT[place])]
        if subject.batched and not short:
            jobs.append(("decode", BATCHED_DEPTH, BATCH))
        for job, depth, batch in jobs:
            made = {
                name: partial(cell, subject, path, job, depth, batch, short) for name, path in subject.paths().items()
            }
            if not gpu and not short:
                made[OUT_OF_THE_BOX] = partial(apart, subject.name, job, depth)
            for name, run in made.items():
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


BENCHMARK = _frame.Benchmark("endtoend", measure, page, ("mlx-cuda-13", "transformers", "torch"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The common command line, with a choice of models and a profile."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--shapes", default="")
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
    benchmark = _frame.Benchmark("endtoend", lambda short, tell: measure(short, tell, chosen), page, BENCHMARK.packages)
    return benchmark.main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
