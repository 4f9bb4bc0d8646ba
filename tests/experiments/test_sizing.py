"""What fits: the arithmetic that everybody knows, its laws, and agreement with the cache that users run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.experiments.sizing import (
    machines,
    method,
    models,
    plan,
)
from swarm.experiments.sizing.shape import ModelShape
from swarm.experiments.sizing.units import size
from swarm.kernels import plugins
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import SpecError, UsageError
from swarm.kernels.layer_shape import LayerShape
from swarm.kernels.quantizers import base

GIB = 1 << 30
K = 1 << 10
METHODS = plugins.names(base.PACKAGE)


def entry(name: str, *dims: int) -> method.KVMethod:
    return method.both(method.default(name, dims))


def test_llama_31_8b_costs_128_kib_per_token_at_16_bit():
    model = models.find("llama 3.1 8b")
    assert method.per_token(model, method.parse("none"), windows_full=True) == 128 * K
    assert method.kv_bytes(model, method.parse("none"), 128 * K) == 16 * GIB


def test_llama_31_70b_at_5_bits_per_value():
    model = models.find("Llama 3.1 70B")
    for text in ("5", "affine4/g32", "q4_1"):
        assert method.kv_bytes(model, method.parse(text), 128 * K) == pytest.approx(12.5 * GIB, rel=1e-6)
    assert method.kv_bytes(model, method.parse("none"), 128 * K) == 40 * GIB


def test_mla_keeps_one_latent_per_token():
    """DeepSeek-V3: 61 layers x (512 + 64) values x 2 bytes = 68.6 KiB per token."""
    model = models.find("deepseek-v3")
    assert method.per_token(model, method.parse("none"), windows_full=True) == 61 * 576 * 2


def test_windows_stop_growing():
    """gemma-3-27b: 10 of 62 layers see everything; the other 52 hold 1,024 tokens."""
    model, sixteen = models.find("gemma 3 27b"), method.parse("none")
    per_layer = 2 * 16 * 128 * 2
    assert method.kv_bytes(model, sixteen, 1024) == 62 * 1024 * per_layer
    assert method.kv_bytes(model, sixteen, 128 * K) == (52 * 1024 + 10 * 128 * K) * per_layer


def test_experts_that_are_not_routed_to_are_not_read():
    held = plan.weights(models.find("qwen3 30b a3b"), 16)
    assert held.n_bytes == 2 * 30_532_122_624
    assert 2 * 2.9e9 < held.active_bytes < 2 * 3.4e9


def test_speed_is_bandwidth_over_bytes_read():
    machine = machines.find("m4 max", 64)
    model = models.find("llama 3.1 8b")
    found = plan.make(model, [method.parse("none")], machine=machine, contexts=[64 * K], weights_bits=16)
    cost = found.methods[0].costs[0]
    assert cost.tokens_per_second == pytest.approx(546e9 / (2 * 7_504_924_672 + 8 * GIB))


def test_weights_as_on_disk_win_over_the_assumption():
    shape = ModelShape(
        name="x",
        family="llama",
        layers=(LayerShape(kv_heads=1, key_dim=64, value_dim=64),),
        query_heads=1,
        hidden_size=64,
        parameters=1000,
        active_parameters=500,
        weight_bytes=700,
    )
    assert plan.weights(shape).n_bytes == 700
    assert plan.weights(shape).active_bytes == 350
    assert plan.weights(shape, 16).n_bytes == 2000
    with pytest.raises(UsageError, match="weights-bits"):
        plan.weights(shape, 0)
    with pytest.raises(UsageError, match="not known"):
        plan.weights(shape.model_copy(update={"weight_bytes": None, "parameters": None}))


LAYERS = st.builds(
    LayerShape,
    kv_heads=st.integers(0, 9),
    key_dim=st.sampled_from([64, 128, 256]),
    value_dim=st.sampled_from([64, 128, 256]),
    window=st.none() | st.integers(1, 5000),
    state_bytes=st.integers(0, 10_000),
)
SHAPES = st.builds(
    ModelShape,
    name=st.just("x"),
    family=st.just("llama"),
    layers=st.lists(LAYERS, min_size=1, max_size=5).map(tuple),
    query_heads=st.just(16),
    hidden_size=st.integers(64, 8192),
    max_context=st.none() | st.integers(1, 1 << 20),
    parameters=st.integers(1, 10**11),
    active_parameters=st.just(1),
)
KV_METHODS = st.builds(
    lambda name, sinks, recent: method.both(
        method.default(name, (64, 128, 256)), sink_tokens=sinks, residual_window=recent
    ),
    st.sampled_from(METHODS),
    st.integers(0, 64),
    st.integers(0, 300),
)


@given(shape=SHAPES, kv=KV_METHODS, n=st.integers(1, 1 << 21), more=st.integers(1, 1 << 20))
@settings(max_examples=150, deadline=None)
def test_the_cache_never_shrinks_with_the_context(shape, kv, n, more):
    assert method.kv_bytes(shape, kv, n) <= method.kv_bytes(shape, kv, n + more)


@given(shape=SHAPES, kv=KV_METHODS, gigabytes=st.floats(0.1, 512), n=st.integers(1, 1 << 20))
@settings(max_examples=150, deadline=None)
def test_sums_add_up_and_the_largest_context_is_the_largest(shape, kv, gigabytes, n):
    machine = machines.of_memory(gigabytes, 100)
    found = plan.make(shape, [kv], machine=machine, contexts=[n])
    row, free = found.methods[0], machine.usable - found.weights.n_bytes - found.overhead_bytes
    cost = row.costs[0]
    assert cost.total_bytes == found.weights.n_bytes + found.overhead_bytes + cost.kv_bytes
    assert cost.fits == (cost.total_bytes <= machine.usable)
    assert (cost.tokens_per_second is not None) == cost.fits
    assert cost.beyond_trained == (shape.max_context is not None and n > shape.max_context)
    if row.unlimited:
        assert method.kv_bytes(shape, kv, 1 << 40) <= free
    elif row.largest_context:
        assert (
            method.kv_bytes(shape, kv, row.largest_context)
            <= free
            < method.kv_bytes(shape, kv, row.largest_context + 1)
        )
    else:
        assert method.kv_bytes(shape, kv, 1) > free
    if not row.unlimited and row.largest_context is not None:
        assert cost.fits == (n <= row.largest_context)


@given(shape=SHAPES, low=st.floats(1, 16), high=st.floats(1, 16), n=st.integers(1, 1 << 20))
@settings(max_examples=50, deadline=None)
def test_more_bits_cost_more(shape, low, high, n):
    costs = [method.kv_bytes(shape, method.parse(str(bits)), n) for bits in sorted((low, high))]
    assert costs[0] <= costs[1]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("window", [None, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_cache_that_users_run(name, window, seed):
    """The bytes that the cache really holds, token by token, never exceed the arithmetic and come close to it."""
    rng = np.random.default_rng(seed)
    layer = LayerShape(kv_heads=3, key_dim=64, value_dim=64, window=window)
    kv = method.both(method.default(name, (64,)), sink_tokens=4 * seed, residual_window=17 * seed)
    cache = PackedKVCache(kv.kv, window=window)
    for n_new in (1, 30, 1, 1, 31, 100, 1, 1, 60, 1, 130, 1):
        keys, values = rng.standard_normal((2, 1, 3, n_new, 64), dtype=np.float32)
        cache.append(keys, values)
        if n_new == 1:
            held = sum(side.live_nbytes for side in cache.sides)
            said = kv.layer_bytes(layer, cache.offset)
            waiting = 32 * 2 * 3 * 64 * 2
            assert held <= said + 1e-6
            assert held >= said - waiting


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_exact_bits(name):
    kv = entry(name, 128)
    bits = [side.bits for side in (kv.cost("key", 128), kv.cost("value", 128))]
    assert all(1 <= value <= 16 for value in bits)
    model = models.find("llama 3.1 8b")
    row = plan.make(model, [kv]).methods[0]
    assert row.bits_per_value == pytest.approx(sum(bits) / 2)
    assert row.bytes_per_token == pytest.approx(128 * K * row.bits_per_value / 16)
    assert row.largest_context is None


def test_a_method_that_does_not_fit_the_heads_is_named():
    model = models.find("phi-3-mini-128k")
    found = plan.make(model, [method.parse("none"), method.parse("affine4/g64")])
    assert list(found.refused) == ["affine4/g64"]
    with pytest.raises(SpecError, match="head size 96"):
        plan.make(model, [method.parse("affine4/g64")])
    assert method.default("affine", model.dims).group_size == 32


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("none", "none"),
        ("affine", "affine4/g64"),
        ("affine3/g32", "affine3/g32"),
        ("affine/g128", "affine4/g128"),
        ("affine4+hadamard", "affine4/g64+hadamard"),
        ("q8_0", "q8_0"),
        ("q8_0,q4_0", "K q8_0 V q4_0"),
        ("4.5", "4.5 bits/value"),
    ],
)
def test_methods_are_written_as_their_labels(text, label):
    found = method.parse(text)
    assert found.label == label
    if found.kv is not None and "," not in text:
        assert method.parse(label) == found


@pytest.mark.parametrize(
    "text", ["affin4", "", "q9_0", "affine4/g7", "affine9", "q8_0,q4_0,q4_0", "-3", "nan", "0", "none,qjl"]
)
def test_methods_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        method.parse(text)


def test_the_explanation_names_heads_windows_and_what_is_beyond():
    notes = plan.make(models.find("gemma 3 27b"), [method.parse("none")], contexts=[256 * K]).notes
    assert any("32 query heads share 16 KV heads" in note for note in notes)
    assert any("52 of 62 layers see 1K" in note for note in notes)
    assert any("beyond the trained window of 128K: 256K" in note for note in notes)
    assert "MQA" in plan.make(models.find("gemma 3 1b"), [method.parse("none")]).notes[0]
    assert "MHA" in plan.make(models.find("llama 2 7b"), [method.parse("none")]).notes[0]
    assert "MLA" in plan.make(models.find("deepseek r1"), [method.parse("none")]).notes[0]


@given(st.integers(0, 1 << 50))
def test_sizes_have_three_digits(n_bytes):
    number, unit = size(n_bytes).split()
    value = float(number) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert math.isclose(value, n_bytes, rel_tol=5.1e-3)
    assert len(number.replace(".", "").lstrip("0")) <= 4
