"""Attention over a packed cache on the CPU: our chunked path against mlx-lm's and MLX's own, time, memory and error.

One layer of each bundled model, and one of Llama-8B's shape; affine with 4 bits and groups of 64 (16 bit and 32 bit
where a path says so). All paths of a cell run in turns on the same numbers, with float32 queries, the type in which
models run on a CPU here: with float16 queries MLX's own operations are many times slower. Ours is what the cache class
calls for a model: a view that `append` gave, read by the back-end. `prefill` is the last chunk of 64 queries of a
prompt, causal. Every BLAS has one thread, as MLX's own operations have, and CPU time counts: what others do on the
machine lengthens it little.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from benchmarks import _frame

from swarm.kernels import attention, blas
from swarm.kernels.arrays import Array
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.spec import KVSpec, QuantSpec

BITS, GROUP = 4, 64
CHUNK = 64
QUERIES = {"decode": 1, "prefill": CHUNK}
TOKENS = {"decode": (2048, 8192, 32768), "prefill": (2048, 8192)}
ROUNDS = 9
LEAST_SECONDS = 0.02  # of one round of one path: short calls are repeated
PATIENCE = 7.0  # seconds for the rounds of a cell; three are made in any case
OURS, MLX_LM, DEQUANTIZED, HALF, SINGLE = "ours", "mlx-lm quantized", "dequantize + SDPA", "SDPA 16 bit", "SDPA 32 bit"
UNPACKING = "unpacking alone"
PEERS = (MLX_LM, DEQUANTIZED, HALF, SINGLE)

Run = Callable[[], Array]


@dataclass(frozen=True)
class Layer:
    """Query heads, KV heads and channels of a model's layer."""

    name: str
    q_heads: int
    kv_heads: int
    dim: int


LAYERS = (
    Layer("SmolLM2-135M", 9, 3, 64),
    Layer("Gemma-3-270M", 4, 1, 256),
    Layer("Qwen2.5-Coder-0.5B", 14, 2, 64),
    Layer("Llama-3.1-8B", 32, 8, 128),
)


class Cell:
    """Keys, values and queries of a layer, held as every path holds them; `seed` draws them."""

    def __init__(self, layer: Layer, tokens: int, queries: int, seed: int = 0) -> None:
        import mlx.core as mx

        rng = np.random.default_rng(seed)
        size = (1, layer.kv_heads, tokens, layer.dim)
        keys, values = (rng.standard_normal(size, np.float32).astype(np.float16) for _ in "kv")
        self.q = mx.array(rng.standard_normal((1, layer.q_heads, queries, layer.dim), np.float32))
        self.scale = layer.dim**-0.5
        self.mask = "causal" if queries > 1 else None
        spec = QuantSpec(method="affine", bits=BITS, group_size=GROUP)
        self.cache = cache = PackedKVCache(KVSpec(key=spec, value=spec), backend=Cpu())
        cache.append(keys[:, :, :-queries], values[:, :, :-queries])
        self.view = cache.append(keys[:, :, -queries:], values[:, :, -queries:])
        self.half = tuple(map(mx.array, (keys, values)))
        self.single = tuple(x.astype(mx.float32) for x in self.half)
        packed = [mx.quantize(x, GROUP, BITS) for x in self.half]
        # mlx-lm's cache takes the queries' type, so scales and biases are float32.
        self.packed = [(codes, *(part.astype(mx.float32) for part in rest)) for codes, *rest in packed]
        mx.eval(self.q, self.half, self.single, self.packed)

    def runs(self) -> dict[str, Run]:
        """Every path."""
        import mlx.core as mx
        from mlx_lm.models import base

        options = {"scale": self.scale, "mask": self.mask}
        packed, sdpa = self.packed, mx.fast.scaled_dot_product_attention

        def mlx_lm() -> Array:
            scratch = self.q + 0  # mlx-lm scales the queries in place
            return base.quantized_scaled_dot_product_attention(scratch, *packed, group_size=GROUP, bits=BITS, **options)

        def dequantized() -> Array:
            return sdpa(self.q, *(mx.dequantize(*side, GROUP, BITS) for side in packed), **options)

        return {
            OURS: partial(attention.attend, self.view, self.q, **options),
            MLX_LM: mlx_lm,
            DEQUANTIZED: dequantized,
            HALF: partial(sdpa, self.q, *self.half, **options),
            SINGLE: partial(sdpa, self.q, *self.single, **options),
        }

    def unpack(self) -> Array:
        """What ours does to codes, without any product: one token reads them as they are, several decoded."""
        from swarm.kernels.backends import _numpy_attention, _numpy_codes

        for low in range(0, self.view.offset, _numpy_attention.CHUNK_COLUMNS):
            high = min(low + _numpy_attention.CHUNK_COLUMNS, self.view.offset)
            for side in (self.view.key, self.view.value):
                if self.mask is None:
                    _numpy_codes.Codes(side.codec.form, side.stored(low, high))
                else:
                    side.packed(np, low, high)
        return self.q

    def stored(self, path: str) -> list[np.ndarray]:
        """Keys and values [H, T, D] that a path reads, as exact numbers."""
        import mlx.core as mx

        plain = self.half if path in (HALF, SINGLE) else [mx.dequantize(*side, GROUP, BITS) for side in self.packed]
        return [np.array(x)[0] for x in plain]

    def expected(self, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Attention in float64, one KV head at a time."""
        _, heads, length, dim = self.q.shape
        q = np.array(self.q)[0].reshape(len(keys), -1, dim).astype(np.float64)
        seen = np.arange(keys.shape[1])[None] <= np.arange(keys.shape[1] - length, keys.shape[1])[:, None]
        out = []
        for one, key, value in zip(q, keys, values, strict=True):
            scores = self.scale * one @ key.astype(np.float64).T
            scores[~np.tile(seen, (len(one) // length, 1))] = -np.inf
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            out.append(shares @ value.astype(np.float64) / shares.sum(axis=1, keepdims=True))
        return np.concatenate(out).reshape(1, heads, length, dim)


def seconds(run: Run, calls: int) -> float:
    """CPU time of a call, the mean of some."""
    import mlx.core as mx

    start = time.process_time()
    for _ in range(calls):
        mx.eval(run())
    return (time.process_time() - start) / calls


def extra_bytes(run: Run) -> int:
    """Most bytes that a call holds at a time beside its inputs: numpy's and MLX's, without what a BLAS takes itself."""
    import mlx.core as mx

    mx.clear_cache()
    tracemalloc.start()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(run())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak + mx.get_peak_memory() - before


def measure_cell(cell: Cell, rounds: int) -> _frame.Results:
    """Times of every path by round, extra bytes, and relative errors against float64 over what the path stores."""
    runs = cell.runs()
    expected = {kind: cell.expected(*cell.stored(kind)) for kind in (OURS, HALF)}
    errors = {}
    for name, run in runs.items():
        right = expected[HALF if name in (HALF, SINGLE) else OURS]
        errors[name] = float(np.linalg.norm(np.array(run()) - right) / np.linalg.norm(right))
    del expected
    extra = {name: extra_bytes(run) for name, run in runs.items()}
    timed = {**runs, UNPACKING: cell.unpack}
    calls = {name: max(1, int(LEAST_SECONDS / seconds(run, 1))) for name, run in timed.items()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - began > PATIENCE:
            break
        for name, run in timed.items():
            times[name].append(seconds(run, calls[name]))
    return {"seconds": times, "extra_bytes": extra, "errors": errors}


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """All cells; the short form takes one layer, few tokens and one round."""
    blas.use_openblas(1)
    found = []
    for kind, queries in QUERIES.items():
        for layer in LAYERS[:1] if short else LAYERS:
            for tokens in (256,) if short else TOKENS[kind]:
                entry = measure_cell(Cell(layer, tokens, queries), 1 if short else ROUNDS)
                found.append({"kind": kind, "layer": layer.name, "tokens": tokens, **entry})
                middle = {name: 1e3 * statistics.median(times) for name, times in entry["seconds"].items()}
                told = ", ".join(f"{name} {value:.1f}" for name, value in middle.items())
                tell(f"{kind}, {layer.name}, {tokens} tokens, ms: {told}")
    return {"bits": BITS, "group_size": GROUP, "chunk": CHUNK, "cells": found}


def _ratio(cell: dict[str, Any], peer: str) -> dict[str, float]:
    return _frame.ratio(cell["seconds"][peer], cell["seconds"][OURS])


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    cells = results["cells"]
    parts = [
        _frame.heading(record, "Attention over a packed cache on the CPU"),
        (__doc__ or "").partition("\n\n")[2].strip() + "\n",
        "Milliseconds of ours and of its unpacking of codes alone, medians over the rounds; then how many times longer "
        "each peer takes, with the extremes over all pairs of rounds: below 1x the peer is faster.\n",
    ]
    for kind in QUERIES:
        rows = []
        for cell in (cell for cell in cells if cell["kind"] == kind):
            own = (f"{1e3 * statistics.median(cell['seconds'][name]):.2f}" for name in (OURS, UNPACKING))
            rows.append((cell["layer"], cell["tokens"], *own, *(_frame.times(_ratio(cell, peer)) for peer in PEERS)))
        title = "Decode, one query token" if kind == "decode" else f"Prefill, {results['chunk']} query tokens"
        parts += [f"## {title}\n", _frame.table(("layer", "tokens", OURS, UNPACKING, *PEERS), rows)]
    return "\n".join((*parts, *_slower(cells), *_memory(cells), *_errors(cells)))


def _slower(cells: list[dict[str, Any]]) -> list[str]:
    lines = []
    for peer in PEERS:
        ratios = [(cell, _ratio(cell, peer)["ratio"]) for cell in cells]
        behind = [f"{c['kind']} of {c['layer']} at {c['tokens']} ({1 / x:.2g}x)" for c, x in ratios if x < 1]
        lines.append(f"- than {peer}: {', '.join(behind) if behind else 'nowhere'}.")
    return ["## Where ours is slower\n", "\n".join(lines) + "\n"]


def _memory(cells: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            *(cell[key] for key in ("kind", "layer", "tokens")),
            *(f"{cell['extra_bytes'][name] / 2**20:.2f}" for name in (OURS, *PEERS)),
        )
        for cell in cells
    ]
    text = "MiB at most beside the cache and its queries, as numpy and MLX count them; without a BLAS's own buffers.\n"
    return ["## Peak of extra memory\n", text, _frame.table(("", "layer", "tokens", OURS, *PEERS), rows)]


def _errors(cells: list[dict[str, Any]]) -> list[str]:
    rows = [(name, f"{max(cell['errors'][name] for cell in cells):.1e}") for name in (OURS, *PEERS)]
    text = "Largest relative error against float64 over the very numbers that the path stores: arithmetic alone.\n"
    return ["## Errors\n", text, _frame.table(("", "error"), rows)]


BENCHMARK = _frame.Benchmark("attention", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
