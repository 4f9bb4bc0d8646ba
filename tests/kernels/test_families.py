"""Packed caches under every family of mlx-lm: small random models of each, with their own code untouched."""

import copy

import mlx.core as mx
import numpy as np
import pytest
from families import dense, experts
from families.build import TEXT_MODELS, build, families, logits, text, uncompiled
from mlx_lm.models.cache import (
    CacheList,
    can_trim_prompt_cache,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    trim_prompt_cache,
)

from swarm.kernels import layers
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import ModelError
from swarm.kernels.model_cache import make_cache, packed_layers

PROMPT = [5, 5, 3]
"""A prompt in chunks that end inside of windows and chunks of the models, which are 8 tokens long."""

FARTHEST, MEAN = 2e-2, 1e-3
"""Of the logits' spread. Sums in another order move a key that lies between two 16-bit numbers to the other one now and
then, which seldom sends a token to another expert, and one family rounds its last states to bfloat16; a token too many
or too few changes far more."""

STATE = "keeps no keys and values.*ArraysCache"
REFUSED = {
    "deepseek_v41": r"keeps .* in caches of its own kind \(LayerCache\)",
    "mamba": STATE,
    "mamba2": STATE,
    "olmo": "cannot read 2 tokens at a time .* with its own cache either: ValueError",
    "rwkv7": STATE,
}
"""Families that keep no keys and values, or do not run at all, with the reason."""

PACKED = [family for family in families() if family not in REFUSED]

PLAIN = [family for family in PACKED if family in dense.CONFIGS | experts.CONFIGS | TEXT_MODELS]
"""Families with plain keys and values, and those with images over the layers of another: alike in copies and trims."""

BY_CACHE = [pytest.param(family, marks=pytest.mark.slow) if family in PLAIN[5:] else family for family in PACKED]


def seed(family):
    """One of three by the family: together the families see them all."""
    return families().index(family) % 3


@pytest.fixture(autouse=True)
def _uncompiled():
    with uncompiled():
        yield


@pytest.fixture(params=PACKED)
def family(request):
    return request.param


def rounded(own, packed):
    """A model's own caches, which round keys and values to 16 bit wherever the packed ones hold them."""
    for cache, ours in zip(own, packed, strict=True):
        if isinstance(cache, CacheList):
            rounded(cache.caches, ours.caches)
        elif isinstance(ours, PackedKVCache):
            cache.update_and_fetch = _rounding(cache.update_and_fetch)
    return own


def _rounding(take_in):
    def update_and_fetch(*sides):
        return take_in(*(side.astype(mx.float16).astype(side.dtype) for side in sides))

    return update_and_fetch


def own_cache(model):
    return rounded(make_prompt_cache(model), make_cache(model))


def same_as_own(family, seed, batch, chunks):
    model, tokens = build(family, seed), text(batch, sum(chunks), seed)
    own = logits(model, own_cache(model), tokens, chunks)
    ours = logits(model, make_cache(model), tokens, chunks)
    difference = np.abs(ours - own) / own.std()
    assert np.quantile(difference, 0.99) < FARTHEST
    assert difference.mean() < MEAN


def test_nothing_quantized_is_the_models_own_cache(family):
    same_as_own(family, seed(family), 3, [*PROMPT, *[1] * 4])


@pytest.mark.parametrize("family", BY_CACHE)
def test_nothing_quantized_from_the_first_token_on(family):
    same_as_own(family, seed(family), 1, [1] * 10)


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 4, 5])
def test_nothing_quantized_over_long_texts(family, number):
    for batch, chunks in (
        (3, [45]),
        (1, [1] * 45),
        (3, [20, 1, 1, 18, 5]),
        (1, [*PROMPT, *[1] * 20, 12]),
        (3, [8] * 5),
    ):
        same_as_own(family, number, batch, chunks)


def test_8_bits_are_close_and_counted(family):
    model, tokens, chunks = build(family, seed(family)), text(2, 21), [13, 6, 1, 1]
    caches, own = make_cache(model, "q8_0"), own_cache(model)
    expected = logits(model, own, tokens, chunks)
    difference = np.abs(logits(model, caches, tokens, chunks) - expected)
    assert 0 < difference.mean() < 0.1 * expected.std()
    shapes = [layer.shape for layer in layers.trace(model)]
    for cache in packed_layers(caches):
        shape = shapes[cache.layer]
        assert cache.bits_per_value() == 8.5
        live = sum(side.live_nbytes for side in cache.sides)
        assert live == 2 * shape.token_values * cache.size() * 8.5 / 8
        assert cache.nbytes >= live
        assert cache.size() == 21 - cache.first_seen(20) <= shape.tokens(21)
    for cache, other in zip(caches, own, strict=True):
        if not packed_layers([cache]):
            assert type(cache) is type(other)
            assert cache.nbytes == other.nbytes


def continued(model, caches, tokens):
    return logits(model, caches, tokens, [1, 2, 1])


@pytest.mark.parametrize("family", BY_CACHE)
def test_copies_and_files_go_on_alike(family, tmp_path):
    model, tokens = build(family, seed(family)), text(3, 17, 1)
    caches = make_cache(model, "q8_0", seed=2)
    logits(model, caches, tokens[:, :13], PROMPT)
    copies = copy.deepcopy(caches)
    save_prompt_cache(str(tmp_path / "cache.safetensors"), caches)
    expected = continued(model, caches, tokens[:, 13:])
    np.testing.assert_array_equal(continued(model, copies, tokens[:, 13:]), expected)
    loaded = load_prompt_cache(str(tmp_path / "cache.safetensors"))
    np.testing.assert_array_equal(continued(model, loaded, tokens[:, 13:]), expected)
    assert [cache.nbytes for cache in copies] == [cache.nbytes for cache in caches]


@pytest.mark.parametrize("family", BY_CACHE)
def test_trimmed_tokens_leave_no_trace(family):
    """As far as windows have dropped nothing, what the model's own cache can take back the packed one can."""
    model, tokens = build(family, seed(family)), text(3, 10, 2)
    caches, own = make_cache(model, "q8_0"), make_prompt_cache(model)
    for each in (caches, own):
        logits(model, each, tokens[:, :6], [4, 2])
    assert can_trim_prompt_cache(caches) == can_trim_prompt_cache(own)
    if not can_trim_prompt_cache(caches):
        assert not all(isinstance(cache, PackedKVCache) for cache in caches)
        return
    assert trim_prompt_cache(caches, 2) == 2
    fresh = make_cache(model, "q8_0")
    logits(model, fresh, tokens[:, :4], [4])
    rest = tokens[:, 6:]
    np.testing.assert_allclose(continued(model, caches, rest), continued(model, fresh, rest), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_refused_with_the_reason(family):
    with pytest.raises(ModelError, match=f"{family} {REFUSED[family]}"):
        make_cache(build(family))
