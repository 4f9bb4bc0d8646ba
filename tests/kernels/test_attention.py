"""Attention over packed caches against a float64 reference, on numpy and on MLX operations, however calls are cut."""

import mlx.core as mx
import numpy as np
import pytest
from emulated import MlxOperations
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_specs import kv_of

from swarm.kernels import attention, plugins
from swarm.kernels.backends import _mlx_operations, _numpy_attention
from swarm.kernels.backends.base import Backend, backend, current
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import BackendError
from swarm.kernels.quantizers import base

METHODS = plugins.names(base.PACKAGE)


BACKENDS = {"numpy": lambda: backend("cpu"), "mlx": MlxOperations}


def stored(side, x, part=None):
    """What the query of the last token reads: every column as it is held, float64 [B, H, T, D]."""
    columns = x.astype(np.float16).astype(np.float64)
    if side.store.blocks:
        packed = side.codec.output(side.codec.unpack(np, _numpy(side.store.read(0, side.store.blocks))))
        if part is not None:
            packed = packed + part.keys(np, side.packed_first, side.encoded)
        columns[:, :, side.packed_first : side.encoded] = packed
    return columns


def _numpy(packed):
    return {name: np.array(value) for name, value in packed.items()}


def reference(q, k, v, scale, mask=None):
    """Softmax attention in float64: q [B, Hq, L, D] over k, v [B, H, T, D], mask bool or additive [.., L, T]."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), repeats, axis=1) for x in (k, v))
    scores = scale * q.astype(np.float64) @ k.swapaxes(-1, -2)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def token_by_token(cache, q, k, v, scale):
    """The reference of a whole run: each token attends to what is held when it has come in."""
    out, window = [], cache.window
    for t in range(k.shape[2]):
        cache.append(k[:, :, t : t + 1], v[:, :, t : t + 1])
        key, value = cache.sides
        low = 0 if window is None else max(0, t - window + 1)
        columns = [stored(side, x[:, :, : t + 1])[:, :, low:] for side, x in ((key, k), (value, v))]
        out.append(reference(q[:, :, t : t + 1], *columns, scale))
    return np.concatenate(out, axis=2)


def run(cache, q, k, v, scale, cuts):
    out, start = [], 0
    for size in cuts:
        part = slice(start, start + size)
        view, _ = cache.update_and_fetch(mx.array(k[:, :, part]), mx.array(v[:, :, part]))
        mask = cache.make_mask(size)
        out.append(np.array(attention.attend(view, mx.array(q[:, :, part]), scale, mask)))
        start += size
    return np.concatenate(out, axis=2)


def arrays(seed, batch, heads, repeats, tokens, dim):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((batch, heads * repeats, tokens, dim)).astype(np.float32)
    k, v = rng.standard_normal((2, batch, heads, tokens, dim)).astype(np.float32)
    return q, k, v


def cut(tokens, seed):
    rng, sizes = np.random.default_rng(seed), []
    while tokens:
        sizes.append(int(min(tokens, rng.integers(1, 40))))
        tokens -= sizes[-1]
    return sizes


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    repeats=st.sampled_from([1, 3]),
    tokens=st.integers(1, 75),
    sinks=st.sampled_from([0, 3]),
    recent=st.sampled_from([0, 1, 21]),
    window=st.sampled_from([None, 17]),
)
@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("name", METHODS)
def test_any_cut_gives_what_token_by_token_gives(name, where, seed, batch, repeats, tokens, sinks, recent, window):
    kv = kv_of(name, sink_tokens=sinks, residual_window=recent)
    q, k, v = arrays(seed, batch, 2, repeats, tokens, 64)
    scale = 0.2
    expected = token_by_token(PackedKVCache(kv, window=window, backend=backend("cpu")), q, k, v, scale)
    for sizes in ([tokens], cut(tokens, seed)):
        cache = PackedKVCache(kv, window=window, backend=BACKENDS[where]())
        got = run(cache, q, k, v, scale, sizes)
        assert np.abs(got - expected).max() < 2e-3 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("name", METHODS)
def test_long_contexts_span_many_chunks(name, where, monkeypatch):
    monkeypatch.setattr(_numpy_attention, "CHUNK_COLUMNS", 96)
    monkeypatch.setattr(_numpy_attention, "FEW_VALUES", 96 * 2 * 64)
    monkeypatch.setattr(_mlx_operations, "CHUNK_COLUMNS", 128)
    monkeypatch.setattr(_numpy_attention, "MAX_SCORES", 96 * 3 * 50)
    kv = kv_of(name, sink_tokens=4, residual_window=33)
    q, k, v = arrays(1, 1, 2, 3, 640, 64)
    cache = PackedKVCache(kv, backend=BACKENDS[where]())
    cache.append(k[:, :, :500], v[:, :, :500])
    got = run(cache, q[:, :, 500:], k[:, :, 500:], v[:, :, 500:], 0.3, [139, 1])
    key, value = cache.sides
    expected = reference(q[:, :, 639:], stored(key, k), stored(value, v), 0.3)
    np.testing.assert_allclose(got[:, :, 139:], expected, atol=1e-4)
    again = PackedKVCache(kv, backend=BACKENDS[where]())
    whole = run(again, q, k, v, 0.3, [640])
    np.testing.assert_allclose(whole[:, :, 500:], got, atol=1e-4)


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("kind", ["bool", "bool4", "heads", "additive", "short", "row"])
def test_masks_are_right_aligned(kind, where):
    q, k, v = arrays(2, 2, 2, 2, 40, 64)
    cache = PackedKVCache(kv_of("q8_0"), backend=BACKENDS[where]())
    cache.append(k[:, :, :30], v[:, :, :30])
    view, _ = cache.update_and_fetch(mx.array(k[:, :, 30:]), mx.array(v[:, :, 30:]))
    rng = np.random.default_rng(3)
    seen = np.tril(np.ones((10, 40), bool), 30) & ((rng.random((10, 40)) < 0.7) | np.eye(10, 40, 30, dtype=bool))
    full = seen
    if kind == "bool4":
        full = mask = np.stack([seen, np.tril(np.ones((10, 40), bool), 30)])[:, None]
    elif kind == "heads":
        full = mask = np.broadcast_to(seen, (2, 4, 10, 40)) & (rng.random((2, 4, 1, 40)) < 0.9)
        full = mask = mask | np.eye(10, 40, 30, dtype=bool)
    elif kind == "additive":
        full = mask = np.where(seen, rng.standard_normal((10, 40)), -np.inf).astype(np.float32)
    elif kind == "short":
        mask = seen[:, 12:]
        full = np.concatenate([np.zeros((10, 12), bool), mask], axis=1)
    elif kind == "row":
        mask = seen[-1:]
        full = np.broadcast_to(mask, (10, 40))
    else:
        mask = seen
    got = np.array(attention.attend(view, mx.array(q[:, :, 30:]), 0.2, mx.array(mask)))
    key, value = cache.sides
    expected = reference(q[:, :, 30:], stored(key, k), stored(value, v), 0.2, full)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("where", BACKENDS)
def test_the_output_has_the_queries_type(where, dtype):
    q, k, v = (mx.array(x).astype(dtype) for x in arrays(4, 1, 1, 2, 6, 64))
    cache = PackedKVCache(kv_of("q8_0", residual_window=2), backend=BACKENDS[where]())
    view, _ = cache.update_and_fetch(k, v)
    out = attention.attend(view, q, 0.1, "causal")
    assert out.dtype == dtype
    assert out.shape == q.shape
    exact = reference(*(np.array(x.astype(mx.float32)) for x in (q, k, v)), 0.1, np.tril(np.ones((6, 6), bool)))
    np.testing.assert_allclose(np.array(out.astype(mx.float32)), exact, atol=0.03)


@pytest.mark.parametrize("where", BACKENDS)
@pytest.mark.parametrize("scale", [0.05, 1.0, 8.0])
def test_scale_and_gain_multiply_the_logits(where, scale):
    q, k, v = arrays(5, 1, 1, 2, 20, 64)
    outputs = []
    for factor, gain in ((scale, 2.5), (2.5 * scale, 1.0)):
        cache = PackedKVCache(kv_of("turboquant_mse"), backend=BACKENDS[where]())
        cache.logit_gain = gain
        outputs.append(run(cache, q, k, v, factor, [20]))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    assert np.isfinite(outputs[0]).all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("where", BACKENDS)
def test_queries_that_see_nothing_give_no_nan(where, dtype):
    q, k, v = (mx.array(x).astype(dtype) for x in arrays(6, 1, 1, 1, 8, 64))
    cache = PackedKVCache(kv_of("q8_0"), backend=BACKENDS[where]())
    view, _ = cache.update_and_fetch(k, v)
    seen = np.tril(np.ones((8, 8), bool), -1)
    for mask in (seen, np.where(seen, 0, -np.inf).astype(np.float32)):
        out = attention.attend(view, q, 0.1, mx.array(mask))
        assert np.isfinite(np.array(out.astype(mx.float32))).all()


def test_recorders_hear_what_the_model_gave():
    q, k, v = arrays(7, 1, 2, 2, 9, 64)
    cache = PackedKVCache(kv_of("q4_0"), layer=5)
    heard = []
    with attention.record(heard.append):
        run(cache, q, k, v, 0.25, [8, 1])
    run(cache, q, k, v, 0.25, [9])
    assert [call.start for call in heard] == [0, 8]
    assert {call.layer for call in heard} == {5}
    assert heard[1].scale == 0.25
    np.testing.assert_array_equal(np.concatenate([np.array(call.keys) for call in heard], axis=2), k)
    np.testing.assert_array_equal(np.concatenate([np.array(call.values) for call in heard], axis=2), v)
    np.testing.assert_array_equal(np.concatenate([np.array(call.queries) for call in heard], axis=2), q)


def test_mlx_lms_own_packed_caches_still_work():
    from mlx_lm.models import base as mlx_base
    from mlx_lm.models.cache import QuantizedKVCache

    attention.install()
    attention.install()
    q, k, v = (mx.array(x) for x in arrays(8, 1, 2, 2, 16, 64))
    own = QuantizedKVCache(group_size=64, bits=8)
    keys, values = own.update_and_fetch(k, v)
    exact = reference(*(np.array(x) for x in (q, k, v)), 0.2, np.tril(np.ones((16, 16), bool)))
    out = mlx_base.scaled_dot_product_attention(q, keys, values, own, scale=0.2, mask="causal")
    np.testing.assert_allclose(np.array(out), exact, atol=0.05)


@pytest.mark.parametrize("name", plugins.names("swarm.kernels.backends"))
def test_back_ends_say_what_they_need(name):
    kind = plugins.load("swarm.kernels.backends", Backend, name)
    assert kind.name == name
    assert kind.remedy
    if kind.available():
        assert backend(name).device_name()
    else:
        with pytest.raises(BackendError, match=name):
            backend(name)


def test_the_default_device_decides():
    assert current().name in plugins.names("swarm.kernels.backends")
