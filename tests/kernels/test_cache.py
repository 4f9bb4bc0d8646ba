"""The packed cache on its own: what is stored when, exact bytes, windows, trimming, saved states."""

import copy
import gc
import json
import weakref

import kv_specs
import mlx.core as mx
import numpy as np
import pytest
from emulated import MlxOperations
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.kernels import plugins
from swarm.kernels.backends.base import backend as backend_of
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import ModelError, NonFiniteError, SpecError, UsageError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

METHODS = plugins.names(base.PACKAGE)
BACKENDS = {"numpy": lambda: backend_of("cpu"), "mlx": MlxOperations}


def kv_of(name, **segments):
    return kv_specs.kv_of(name, QuantSpec(method="affine", bits=8), **segments)


def fill(cache, keys, values, sizes):
    start = 0
    for size in sizes:
        cache.append(keys[:, :, start : start + size], values[:, :, start : start + size])
        start += size
    assert start == keys.shape[2]


def flat_state(cache):
    state = cache.state
    parts = {"settings": json.loads(state["settings"])}
    for side in ("key", "value"):
        parts[side] = {name: np.array(part) for name, part in state[side]["arrays"].items()}
        parts[f"{side}_encoded"] = state[side]["encoded"]
    return parts


def same_state(left, right):
    a, b = flat_state(left), flat_state(right)
    assert a["settings"] == b["settings"]
    for side in ("key", "value"):
        assert a[f"{side}_encoded"] == b[f"{side}_encoded"]
        assert a[side].keys() == b[side].keys()
        for name, part in a[side].items():
            np.testing.assert_array_equal(part, b[side][name], err_msg=f"{side} {name}")


@settings(max_examples=6, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    sinks=st.sampled_from([0, 3]),
    recent=st.sampled_from([0, 1, 19]),
    window=st.sampled_from([None, 40]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_stored_does_not_depend_on_the_cuts(name, cuts, sinks, recent, window, seed):
    tokens = sum(cuts)
    keys, values = np.random.default_rng(seed).standard_normal((2, 2, 2, tokens, 64)).astype(np.float32)
    kv = kv_of(name, sink_tokens=sinks, residual_window=recent)
    caches = [PackedKVCache(kv, seed=seed, window=window) for _ in range(2)]
    fill(caches[0], keys, values, cuts)
    fill(caches[1], keys, values, [1] * tokens)
    if window is not None:  # a longer call holds its window's older tokens until the next one
        for cache in caches:
            cache.append(keys[:, :, :1], values[:, :, :1])
    same_state(*caches)


@pytest.mark.parametrize("name", METHODS)
def test_tokens_are_encoded_when_they_leave_the_residual_window(name, vectors):
    kv = kv_of(name, sink_tokens=2, residual_window=5)
    cache = PackedKVCache(kv)
    x = vectors((1, 1, 200, 64), 1)
    for token in range(200):
        cache.append(x[:, :, token : token + 1], x[:, :, token : token + 1])
        for side in cache.sides:
            block = side.codec.block_tokens
            expected = side.sinks + max(0, token + 1 - side.residual - side.sinks) // block * block
            assert side.encoded == expected
            tail = 0 if side.tail is None else side.tail.shape[2]
            assert tail == max(0, token + 1 - expected)
    for side in cache.sides:
        assert side.store.blocks * side.codec.block_tokens == side.encoded - side.sinks


@pytest.mark.parametrize("tokens", [1, 31, 300])
@pytest.mark.parametrize("name", METHODS)
def test_bytes_and_bits_are_exact(name, tokens, vectors):
    kv = kv_of(name, sink_tokens=4, residual_window=8)
    cache = PackedKVCache(kv)
    assert cache.empty()
    assert cache.nbytes == 0
    x = vectors((2, 3, tokens, 64), 2)
    cache.append(x, x)
    state = cache.state
    live = sum(part.nbytes for side in ("key", "value") for part in state[side]["arrays"].values())
    tables = sum(side.codec.constant_nbytes for side in cache.sides)
    assert cache.bits_per_value() == pytest.approx(8 * (live + tables) / (2 * x.size))
    held = sum(
        array.nbytes
        for side in cache.sides
        for array in [side.sink, side.tail, *side.store.arrays()[0].values()]
        if array is not None
    )
    assert cache.nbytes == held + tables
    assert live + tables <= cache.nbytes
    assert cache.size() == tokens
    key, value = (side.codec.bits_per_value for side in cache.sides)
    assert cache.limit_bits_per_value() == pytest.approx((key + value) / 2)


def test_long_contexts_approach_the_limit(vectors):
    cache = PackedKVCache(KVSpec(key=QuantSpec(method="q4_0"), value=QuantSpec(method="q8_0"), residual_window=16))
    x = vectors((1, 1, 4096, 64))
    cache.append(x, x)
    assert cache.bits_per_value() == pytest.approx(6.5 + 16 / 4096 * 9.5, abs=1e-6)


@pytest.mark.parametrize("window", [8, 33, 100])
@pytest.mark.parametrize("name", METHODS)
def test_windows_drop_what_no_query_sees(name, window, vectors):
    cache = PackedKVCache(kv_of(name), window=window)
    x = vectors((1, 1, 800, 64), 3)
    for token in range(0, 800, 4):
        cache.append(x[:, :, token : token + 4], x[:, :, token : token + 4])
    block = max(side.codec.block_tokens for side in cache.sides)
    assert window <= cache.size() <= window + 3 + 2 * block
    assert cache.offset == 800
    assert cache.nbytes <= PackedKVCache.nbytes.fget(_filled(kv_of(name), x[:, :, : 256 + window + 2 * block])) * 2


def _filled(kv, x):
    cache = PackedKVCache(kv)
    cache.append(x, x)
    return cache


@settings(max_examples=12, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 70)), min_size=1, max_size=4),
    sinks=st.sampled_from([0, 3]),
    recent=st.sampled_from([0, 1, 19]),
    window=st.sampled_from([None, 200]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("where", ["numpy", "mlx"])
@pytest.mark.parametrize("name", METHODS)
def test_a_trimmed_cache_is_that_of_the_tokens_that_are_left(name, where, steps, sinks, recent, window, seed):
    """Any appends and trims end in the very bytes that a new cache has of the same tokens, or the trim is refused."""
    kv, backend = kv_of(name, sink_tokens=sinks, residual_window=recent), BACKENDS[where]()
    rng, cache = np.random.default_rng(seed), PackedKVCache(kv, window=window, backend=backend)
    kept = np.empty((2, 1, 2, 0, 64), np.float32)
    for tokens, back in steps:
        new = rng.standard_normal((2, 1, 2, tokens, 64)).astype(np.float32)
        cache.append(*new)
        kept = np.concatenate([kept, new], axis=3)
        promised, left = cache.is_trimmable(), max(0, kept.shape[3] - back)
        try:
            assert cache.trim(back) == kept.shape[3] - left
            kept = kept[:, :, :, :left]
        except UsageError:
            assert not promised
        cold = PackedKVCache(kv, window=window, backend=backend)
        if kept.shape[3]:
            cold.append(*kept)
            same_state(cache, cold)
        assert cache.offset == cache.size() == kept.shape[3]


@pytest.mark.parametrize("name", METHODS)
def test_trimming_is_promised_where_no_packed_token_could_be_in_16_bit_again(name, vectors):
    x = vectors((1, 2, 130, 64), 4)
    for recent in (0, 10):
        kv = kv_of(name, sink_tokens=3, residual_window=recent)
        cache = PackedKVCache(kv)
        cache.append(x[:, :, :3], x[:, :, :3])
        assert cache.is_trimmable()
        cache.append(x, x)
        blocks = any(side.codec.block_tokens > 1 for side in cache.sides)
        assert cache.is_trimmable() == (not blocks and (recent == 0 or name == "none"))
        if not cache.is_trimmable():
            with pytest.raises(UsageError, match=r"last 100 of 133 tokens .* new cache"):
                cache.trim(100)
            assert cache.offset == cache.size() == 133


@settings(max_examples=6, deadline=None)
@given(
    at=st.integers(1, 120),
    behind=st.lists(st.integers(1, 90), max_size=3),
    recent=st.sampled_from([0, 19]),
    window=st.sampled_from([None, 40]),
)
@pytest.mark.parametrize("where", ["numpy", "mlx"])
@pytest.mark.parametrize("name", METHODS)
def test_a_kept_state_is_that_of_a_cache_that_ended_there(name, where, at, behind, recent, window):
    kv, backend = kv_of(name, sink_tokens=2, residual_window=recent), BACKENDS[where]()
    cache, cold = (PackedKVCache(kv, window=window, backend=backend) for _ in range(2))
    x = np.random.default_rng(at).standard_normal((2, 1, 2, at + sum(behind), 64)).astype(np.float32)
    cache.keep_state_at(at)
    assert cache.kept_state() is None
    for one in (cache, cold):
        one.append(*x[:, :, :, :at])
    fill(cache, *x[:, :, :, at:], behind)
    full = flat_state(cache)
    older = cache.kept_state()
    same_state(older, cold)
    # Three caches go on from here, none of which sees what the others append.
    again, more = cache.kept_state(), np.random.default_rng(1).standard_normal((2, 1, 2, 50, 64)).astype(np.float32)
    older.append(*more)
    again.append(*-more)
    cold.append(*more)
    same_state(older, cold)
    for side, parts in full.items():
        np.testing.assert_equal(flat_state(cache)[side], parts)
    assert cache.nbytes >= sum(side.nbytes for side in cache.sides)


def test_a_window_that_dropped_tokens_cannot_be_trimmed(vectors):
    cache = PackedKVCache(KVSpec(key=QuantSpec(method="q8_0")), window=16)
    x = vectors((1, 1, 15, 64))
    cache.append(x, x)
    assert cache.is_trimmable()
    cache.append(x, x)
    assert not cache.is_trimmable()


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_goes_on_as_the_original(name, tmp_path, vectors):
    from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

    x = vectors((1, 2, 90, 64), 5)
    original = [
        PackedKVCache(kv_of(name, sink_tokens=2, residual_window=9), layer=layer, seed=3, window=window)
        for layer, window in enumerate((None, 40))
    ]
    original.append(PackedKVCache(layer=2))  # no token yet
    for cache in original[:2]:
        cache.append(x, x)
    path = str(tmp_path / "prompt.safetensors")
    save_prompt_cache(path, original)
    loaded = load_prompt_cache(path)
    assert loaded[2].empty()
    for one, other in zip(original[:2], loaded[:2], strict=True):
        same_state(one, other)
        assert other.bits_per_value() == one.bits_per_value()
        for cache in (one, other):
            cache.append(x[:, :, :33], x[:, :, 33:66])
        same_state(one, other)
    copied = copy.deepcopy(original[0])
    original[0].append(x, x)
    assert copied.offset == 123
    assert original[0].offset == 213


def test_different_layers_and_seeds_rotate_differently(vectors):
    kv = KVSpec(key=QuantSpec(method="q4_0", rotation="hadamard"), value=QuantSpec(method="q4_0", rotation="random"))
    x = vectors((1, 1, 8, 64), 6)
    codes = []
    for layer, seed in ((0, 0), (1, 0), (0, 1)):
        cache = PackedKVCache(kv, layer=layer, seed=seed)
        cache.append(x, x)
        codes.append(flat_state(cache)["key"]["blocks"].tobytes())
    assert len(set(codes)) == 3


@pytest.mark.parametrize("side", [0, 1])
def test_nan_names_the_method_and_leaves_a_clear_error(side, vectors):
    cache = PackedKVCache(kv_of("q8_0"))
    pair = [vectors((1, 1, 4, 64)), vectors((1, 1, 4, 64))]
    pair[side][0, 0, 2, 9] = np.nan
    with pytest.raises(NonFiniteError, match="q8_0"):
        cache.append(*pair)


@pytest.mark.parametrize("side", [0, 1])
def test_on_an_accelerator_the_next_call_says_that_a_prompt_was_not_finite(side, vectors):
    cache = PackedKVCache(kv_of("q8_0"), backend=MlxOperations())
    pair = [vectors((1, 1, 4, 64)), vectors((1, 1, 4, 64))]
    cache.append(*pair)
    pair[side][0, 0, 2, 9] = np.inf
    cache.append(*pair)
    with pytest.raises(NonFiniteError, match="q8_0"):
        cache.append(*(x[:, :, :1] for x in pair))


def test_a_head_size_that_does_not_fit_is_refused(vectors):
    cache = PackedKVCache(KVSpec(key=QuantSpec(method="affine", group_size=128)))
    x = vectors((1, 1, 4, 80))
    with pytest.raises(SpecError, match=r"128.*head size 80"):
        cache.append(x, x)


def test_views_refuse_to_be_read_as_arrays(vectors):
    cache = PackedKVCache(kv_of("affine"), family="oddball")
    x = mx.array(vectors((1, 2, 6, 64)))
    keys, _ = cache.update_and_fetch(x, x)
    assert keys.shape == (1, 2, 6, 64)
    for use in (lambda: keys @ x, lambda: keys[0], lambda: keys.transpose(0, 1, 3, 2), lambda: keys * 2):
        with pytest.raises(ModelError, match="oddball"):
            use()


class TestSpecifications:
    def test_overrides_apply_by_layer(self):
        eight = QuantSpec(method="affine", bits=8)
        kv = KVSpec(
            key=QuantSpec(method="affine", bits=2),
            residual_window=8,
            overrides=(LayerOverride(layers=(0, 3), key=QuantSpec()), LayerOverride(layers=(3,), key=eight)),
        )
        assert kv.at(1).key.bits == 2
        assert kv.at(0).key.method == "none"
        assert kv.at(0).residual_window == 0
        assert kv.at(3).key == eight
        assert kv.at(3).overrides == ()
        assert KVSpec.model_validate_json(kv.model_dump_json()) == kv

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"sink_tokens": 4}, "16 bit already"),
            ({"residual_window": 4}, "16 bit already"),
            ({"key_bias": "subtract"}, "keys stay in 16 bit"),
            ({"value": {"method": "qjl"}}, "made for keys"),
            ({"key": {"method": "q8_0", "bits": 4}}, "bits=4"),
            ({"key": {"method": "turboquant_mse", "rotation": "none"}}, "rotation=none"),
            ({"key": {"method": "affine", "axis": "channel"}}, "axis=channel"),
            ({"key": {"method": "qjl", "group_size": 32}}, "takes no group_size"),
            ({"overrides": [{"layers": [1, 1], "key": {"method": "q8_0"}}]}, "list of layers"),
            ({"overrides": [{"layers": [1]}]}, "changes nothing"),
            ({"overrides": [{"layers": [1], "key": {"method": "none"}}]}, "have without it"),
            ({"overrides": 2 * [{"layers": [1], "key": {"method": "q8_0"}}]}, "have without it"),
        ],
    )
    def test_what_makes_no_sense_is_refused_with_the_reason(self, fields, said):
        with pytest.raises(SpecError, match=said):
            KVSpec.model_validate(fields)

    def test_kivi_takes_its_paper_axes(self):
        kv = KVSpec(key=QuantSpec(method="kivi"), value=QuantSpec(method="kivi"))
        assert (kv.key.axis, kv.value.axis) == ("channel", "token")
        assert kv == KVSpec(key=QuantSpec(method="kivi", axis="channel"), value=QuantSpec(method="kivi", axis="token"))


def test_a_cache_is_freed_with_its_last_reference(vectors):
    """Not when the garbage collector comes round: gigabytes hang on it."""
    cache = PackedKVCache(kv_of("affine"))
    x = mx.array(vectors((1, 2, 6, 64)))
    cache.update_and_fetch(x, x)
    gone = weakref.ref(cache)
    gc.disable()
    try:
        del cache
        assert gone() is None
    finally:
        gc.enable()
