"""A long prompt read in chunks: no more than one chunk is ever in 16 bit, however long the context is."""

from __future__ import annotations

import gc
import tracemalloc

import mlx.core as mx
import numpy as np
import pytest
from emulated import MlxOperations

from swarm.kernels import attention
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.spec import KVSpec, QuantSpec

CHUNK, HEADS, DIM = 256, 2, 64
SPECS = {
    "affine": KVSpec(key=QuantSpec(method="affine"), value=QuantSpec(method="affine"), sink_tokens=4),
    "q8_0": KVSpec(key=QuantSpec(method="q8_0"), value=QuantSpec(method="q4_0"), residual_window=40),
}


def chunk(rng):
    """Arrays laid out as a model gives them: heads are a transposed axis."""
    x = rng.standard_normal((3, 1, CHUNK, HEADS, DIM)).astype(np.float16)
    found = [mx.array(part).transpose(0, 2, 1, 3) for part in x]
    mx.eval(found)
    return found


def prefill(kv, backend, chunks):
    """A cache into which so many chunks were read, and the peak of memory over its start during the last one."""
    rng, cache = np.random.default_rng(0), PackedKVCache(kv, backend=backend)
    for _ in range(chunks - 1):
        cache.append(*chunk(rng)[:2])
        mx.eval(cache.state)  # as mlx-lm does after every chunk
    k, v, q = chunk(rng)
    gc.collect()
    tracemalloc.start()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(attention.attend(cache.append(k, v), q, 0.1, "causal"))
    peak = max(tracemalloc.get_traced_memory()[1], mx.get_peak_memory() - before)
    tracemalloc.stop()
    mx.eval(cache.state)
    return cache, peak


@pytest.mark.parametrize("backend", [Cpu, MlxOperations])
@pytest.mark.parametrize("name", SPECS)
def test_attention_needs_no_more_memory_for_a_longer_context(name, backend, monkeypatch):
    from swarm.kernels.backends import _mlx_operations, _numpy_attention

    for module in (_mlx_operations, _numpy_attention):
        monkeypatch.setattr(module, "CHUNK_COLUMNS", 256)
    cache, short = prefill(SPECS[name], backend(), 8)
    grown = cache.nbytes
    cache, long = prefill(SPECS[name], backend(), 24)
    # The store itself is copied when it grows, side by side with the old one; what attention unpacks does not grow.
    assert long < 1.2 * short + 3 * (cache.nbytes - grown), (short, long)


@pytest.mark.parametrize("backend", [Cpu, MlxOperations])
@pytest.mark.parametrize("name", SPECS)
def test_between_chunks_nothing_but_sinks_and_recent_tokens_is_in_16_bit(name, backend):
    kv = SPECS[name]
    cache, _ = prefill(kv, backend(), 6)
    for side in cache.sides:
        kept = 0 if side.sink is None else side.sink.shape[2]
        kept += 0 if side.tail is None else side.tail.shape[2]
        assert kept == kv.sink_tokens + kv.residual_window
        for half in (side.sink, side.tail):  # nor do they keep the chunk alive that they came from
            if isinstance(half, np.ndarray):
                assert half.base is None
    if backend is MlxOperations:
        gc.collect()
        mx.synchronize()
        held = mx.get_active_memory()
        nbytes = cache.nbytes
        del side, half, cache
        gc.collect()
        assert held - mx.get_active_memory() < 1.1 * nbytes + 2**16
