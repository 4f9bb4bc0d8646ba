"""Keys and values of different sizes, learned sinks and capped logits, in every path of attention, against float64."""

import mlx.core as mx
import numpy as np
import pytest
from emulated import MlxOperations
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_specs import kv_of

from swarm.kernels import attention
from swarm.kernels.backends import _mlx_unpacked
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.cache import PackedKVCache

PATHS = {"numpy": Cpu, "mlx": MlxOperations}


def softmax_attention(q, k, v, scale, added, sinks=None, cap=None):
    """Attention in float64: q [B, Hq, L, Dk] over k, v [B, H, T, Dk or Dv]; added [.., L, T], sinks [Hq]."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), repeats, axis=1) for x in (k, v))
    scores = scale * q.astype(np.float64) @ k.swapaxes(-1, -2)
    if cap is not None:
        scores = cap * np.tanh(scores / cap)
    scores = scores + added
    if sinks is not None:
        learned = np.broadcast_to(sinks.astype(np.float64)[:, None, None], (*scores.shape[:-1], 1))
        scores = np.concatenate([learned, scores], axis=-1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True))[..., -k.shape[2] :] @ v


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 3),
    repeats=st.sampled_from([1, 2, 5]),
    sizes=st.sampled_from([(192, 128), (96, 64), (64, 256), (64, 64)]),
    window=st.sampled_from([None, 11]),
    with_sinks=st.booleans(),
    cap=st.sampled_from([None, 1.5, 50.0]),
    own=st.sampled_from([None, "bool", "scores"]),
    cuts=st.sampled_from([(40,), (30, 9, 1), (39, 1)]),
)
@pytest.mark.parametrize("path", PATHS)
def test_sizes_sinks_and_caps_in_every_path(path, seed, batch, repeats, sizes, window, with_sinks, cap, own, cuts):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((batch, 2 * repeats, 40, sizes[0])).astype(np.float32)
    k, v = (rng.standard_normal((batch, 2, 40, size)).astype(np.float16) for size in sizes)
    bias = rng.standard_normal((batch, 2 * repeats, 40, 40)).astype(np.float32)  # of a model that adds something
    sinks = 3 * rng.standard_normal(2 * repeats).astype(np.float32) if with_sinks else None
    cache = PackedKVCache(kv_of("none"), window=window, backend=PATHS[path]())
    cache.logit_cap = cap
    found, start = [], 0
    for length in cuts:
        part = slice(start, start + length)
        learned = None if sinks is None else mx.array(sinks)
        mask = cache.make_mask(length, return_array=True) if own and length > 1 else cache.make_mask(length)
        if own == "scores":
            covered = bias[:, :, part, start - cache.mask_columns(start) : start + length]
            mask = mx.array(covered) if mask is None else mx.where(mask, mx.array(covered), -mx.inf)
        view = cache.append(mx.array(k[:, :, part]), mx.array(v[:, :, part]))
        found.append(attention.attend(view, mx.array(q[:, :, part]), 0.2, mask, learned))
        start += length
    rows, columns = np.arange(40)[:, None], np.arange(40)[None]
    seen = (columns <= rows) & (columns > rows - (window or 99))
    added = bias if own == "scores" else 0
    expected = softmax_attention(q, k, v, 0.2, np.where(seen, added, -np.inf), sinks, cap)
    np.testing.assert_allclose(np.array(mx.concatenate(found, axis=2)), expected, atol=2e-4)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_an_unpacked_layer_a_few_heads_and_queries_at_a_time(cap, monkeypatch):
    rng = np.random.default_rng(3)
    q = rng.standard_normal((2, 12, 17, 96)).astype(np.float32)
    k, v = (rng.standard_normal((2, 4, 60, size)).astype(np.float16) for size in (96, 64))
    sinks = rng.standard_normal(12).astype(np.float32)
    cache = PackedKVCache(kv_of("none"), backend=MlxOperations())
    cache.logit_cap = cap
    cache.append(mx.array(k[:, :, :43]), mx.array(v[:, :, :43]))
    view = cache.append(mx.array(k[:, :, 43:]), mx.array(v[:, :, 43:]))
    monkeypatch.setattr(_mlx_unpacked, "MAX_UNPACKED_BYTES", 2**20)
    monkeypatch.setattr(_mlx_unpacked, "MAX_SCORES", 5 * 2 * 3 * 60)
    found = _mlx_unpacked.attend(view, mx.array(q), 0.2, "causal", mx.array(sinks))
    added = np.where(np.tril(np.ones((17, 60), bool), 43), 0, -np.inf)
    np.testing.assert_allclose(np.array(found), softmax_attention(q, k, v, 0.2, added, sinks, cap), atol=2e-4)
