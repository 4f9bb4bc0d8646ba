"""A long prompt read in chunks: no more than one chunk is ever in 16 bit, however long the context is."""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque

import mlx.core as mx
import numpy as np
import pytest
from emulated import MlxOperations
from kv_specs import kv_of

from swarm.kernels import attention, plugins
from swarm.kernels.backends import _mlx_operations, _mlx_unpacked, _numpy_attention
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.codec import Factors
from swarm.kernels.model_cache import make_cache
from swarm.kernels.quantizers import base
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
    for module in (_mlx_operations, _numpy_attention):
        monkeypatch.setattr(module, "CHUNK_COLUMNS", 256)
    monkeypatch.setattr(_mlx_unpacked, "MAX_UNPACKED_BYTES", 2**16)
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


@pytest.mark.parametrize("bound", ["all heads", "one head"])
@pytest.mark.parametrize("segments", [{}, {"sink_tokens": 3}, {"sink_tokens": 2, "residual_window": 21}])
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("name", plugins.names(base.PACKAGE))
def test_attention_over_an_unpacked_layer_is_that_over_chunks_of_columns(name, window, segments, bound, monkeypatch):
    cache = PackedKVCache(kv_of(name, **segments), window=window, backend=MlxOperations(), seed=1)
    rng = np.random.default_rng(0)
    for length in (70, 1, 37):
        k, v = (mx.array(rng.standard_normal((2, HEADS, length, DIM)).astype(np.float32)) for _ in range(2))
        view = cache.append(k, v)
    q = mx.array(rng.standard_normal((2, 3 * HEADS, 37, DIM)).astype(np.float32))
    if bound == "one head":
        columns = view.offset - view.lowest()
        sizes = [4 + side.codec.quantizer.transient_bytes for side in cache.sides]
        monkeypatch.setattr(_mlx_unpacked, "MAX_UNPACKED_BYTES", 2 * columns * DIM * sum(sizes))
        monkeypatch.setattr(_mlx_unpacked, "MAX_SCORES", 5 * 6 * columns)  # some queries at a time
    for mask in ("causal", None):
        found = _mlx_unpacked.attend(view, q, 0.2, mask)
        if not all(side.codec.decodes for side in cache.sides):
            assert found is None
            continue
        np.testing.assert_allclose(np.array(found), np.array(_mlx_operations.attend(view, q, 0.2, mask)), atol=2e-5)
    monkeypatch.setattr(_mlx_unpacked, "MAX_UNPACKED_BYTES", 1000)
    assert _mlx_unpacked.attend(view, q, 0.2, "causal") is None


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_unpacking_in_16_bit_costs_what_16_bit_costs(bits, dtype):
    """The same limits as of the fused kernels: 2e-3, in bfloat16 what rounding to eight bits takes."""
    spec = QuantSpec(method="affine", bits=bits)
    cache = PackedKVCache(KVSpec(key=spec, value=spec), backend=MlxOperations())
    rng = np.random.default_rng(bits)
    k, v, q = (mx.array(rng.standard_normal((1, n, 300, DIM)).astype(np.float32)).astype(dtype) for n in (2, 2, 8))
    view = cache.append(k, v)
    found, exact = (
        np.array(path.attend(view, q, 0.12, "causal").astype(mx.float32)) for path in (_mlx_unpacked, _mlx_operations)
    )
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < (2e-3 if dtype == mx.float16 else 1e-2)


def test_learned_factors_and_a_subtracted_key_bias_are_put_back(tiny):
    """A model whose keys have a bias, a prompt in two calls, on the CPU's path and over unpacked layers."""
    spec = KVSpec(key=QuantSpec(method="affine", bits=8, scaling="learned"), key_bias="subtract", sink_tokens=2)
    model = tiny("qwen2", 3)
    rng = np.random.default_rng(0)
    factors = {layer: {"key": Factors(np.exp(rng.standard_normal((2, 64)) / 3))} for layer in range(len(model.layers))}
    tokens, outputs = mx.array([rng.integers(0, 89, 40).tolist()]), []
    for backend in (Cpu(), MlxOperations()):
        caches = make_cache(model, spec, factors=factors)
        for cache in caches:
            cache.backend = backend
        model(tokens[:, :25], cache=caches)
        outputs.append(np.array(model(tokens[:, 25:], cache=caches)))
    assert np.abs(outputs[0] - outputs[1]).max() < 2e-3 * np.abs(outputs[0]).max()


def test_the_device_is_given_no_more_than_memory_allows(monkeypatch):
    """Waits are for what was started before, and only where all of it together would not fit."""
    cache = PackedKVCache(SPECS["affine"], backend=MlxOperations())
    rng, waited = np.random.default_rng(0), []
    wait = mx.eval
    monkeypatch.setattr(mx, "eval", lambda *arrays: waited.append(arrays) or wait(*arrays))
    k, v, q = chunk(rng)
    views = [cache.append(k, v) for _ in range(3)]
    expected = [np.array(_mlx_operations.attend(view, q, 0.1, "causal")) for view in views]
    waited.clear()
    for bound, waits in ((2**30, 0), (2**20, 2)):
        monkeypatch.setattr(_mlx_unpacked, "_in_flight", deque())
        monkeypatch.setattr(_mlx_unpacked, "MAX_UNPACKED_BYTES", bound)
        outputs = [_mlx_unpacked.attend(view, q, 0.1, "causal") for view in views]
        assert len(waited) >= waits if waits else not waited
        for out, exact in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(np.array(out), exact, atol=2e-3)
