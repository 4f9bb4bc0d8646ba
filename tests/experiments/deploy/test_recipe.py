"""Recipes as files, and text generated with their caches."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from tiny_models import write_tiny_model

from swarm.experiments.deploy import generation
from swarm.experiments.deploy.recipe import (
    LayerPlan,
    Recipe,
    RecipeError,
    load_recipe,
    plan,
)
from swarm.experiments.deploy.serving import plug_in, prompt_caches
from swarm.experiments.measurement.stored_factors import digest, factors_note, speaks_of, stored
from swarm.experiments.models import registry
from swarm.kernels.codec import Factors
from swarm.kernels.errors import SpecError, UsageError
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

FOUR = QuantSpec(method="affine", bits=4, group_size=32)
EIGHT = QuantSpec(method="affine", bits=8, group_size=32)
MIXED = KVSpec(key=EIGHT, value=FOUR, sink_tokens=2, overrides=(LayerOverride(layers=(0, 3), key=QuantSpec()),))


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def loaded(request, tmp_path_factory):
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param, seed=1)
    return registry.load(str(folder))


def test_a_recipe_of_release_0_1_and_one_with_the_configuration_as_text(tmp_path):
    """The first named its layers beside the cache."""
    path = tmp_path / "best.json"
    path.write_text('{"model": "m", "kv": {"key": {"method": "q8_0"}, "value": {"method": "q4_0"}}, "layers": [1, 2]}')
    old = load_recipe(path)
    assert old.kv.label == "K q8_0 V q4_0 layers 1-2"
    path.write_text('{"model": "m", "kv": "K q8_0 V q4_0 layers 1-2"}')
    assert load_recipe(path) == old


@pytest.mark.parametrize("layers", [None, (0, 1, 3)])
def test_a_recipe_survives_its_file(tmp_path, layers):
    kv = MIXED.on(layers)
    made = Recipe(model="m", kv=kv, seed=3, plan=plan(kv))
    path = tmp_path / "best.json"
    path.write_text(made.text())
    assert load_recipe(path) == made


@pytest.mark.parametrize(
    ("kv", "layers", "expected"),
    [
        (KVSpec(key=FOUR, value=FOUR), None, [("all", "affine4/g32", "affine4/g32")]),
        (KVSpec(key=FOUR), (0, 1, 2, 5), [("0-2,5", "affine4/g32", "none"), ("all others", "none", "none")]),
        (MIXED, None, [("0,3", "none", "affine4/g32"), ("all others", "affine8/g32", "affine4/g32")]),
    ],
)
def test_the_plan_says_what_each_layer_stores(kv, layers, expected):
    assert plan(kv.on(layers)) == tuple(LayerPlan(layers=a, keys=b, values=c) for a, b, c in expected)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": "kv-swarm recipe 2", "model": "m", "kv": {}}',
        '{"model": "m", "kv": {"key": {"method": "magic"}}}',
        '{"model": "m", "kv": {"key": {"method": "affine", "bits": 7}}}',
        '{"model": "m", "kv": {}, "surprise": 1}',
        '{"model": "m", "kv": {}, "seed": -1}',
    ],
)
def test_other_files_are_no_recipes(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(RecipeError, match=r"x\.json is no recipe"):
        load_recipe(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "missing.json")
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file"):
        load_recipe(tmp_path / "x")


def test_caches_follow_the_recipe(loaded):
    ends = LayerOverride(layers=(0,), key=QuantSpec())
    kv = KVSpec(key=EIGHT, value=FOUR, sink_tokens=2, overrides=(ends,), layers=(0, 1, 2))
    caches = Recipe(model="m", kv=kv).apply(loaded.model)
    assert [cache.kv.key.label for cache in caches] == ["none", "affine8/g32", "affine8/g32", "none"]
    assert [cache.kv.value.label for cache in caches] == ["affine4/g32"] * 3 + ["none"]


def test_a_recipe_that_does_not_fit_is_refused(loaded):
    with pytest.raises(SpecError, match="Layer 9"):
        Recipe(model="m", kv=KVSpec(key=EIGHT, layers=(9,))).apply(loaded.model)


@pytest.fixture
def learned(loaded):
    """A recipe with learned keys, and the factors in it."""
    rng, info = np.random.default_rng(0), loaded.info
    shape = (info.n_kv_heads, info.head_dim)
    factors = {layer: {"key": Factors(rng.uniform(0.5, 2, shape), 0.9)} for layer in range(info.n_layers)}
    kv = KVSpec(key=FOUR.model_copy(update={"scaling": "learned"}), value=FOUR)
    entries = stored(factors)
    return Recipe(model="m", kv=kv, factors=entries, factors_digest=digest(entries)), factors


def test_learned_factors_travel_in_the_recipe(tmp_path, loaded, learned):
    recipe, factors = learned
    path = tmp_path / "best.json"
    path.write_text(recipe.text())
    read = load_recipe(path)
    assert read == recipe
    for layer, cache in enumerate(read.apply(loaded.model)):
        np.testing.assert_array_equal(cache.factors["key"].channel, factors[layer]["key"].channel)
        assert cache.factors["key"].clip == 0.9
    prompt = generation.encode(loaded, "Topics")
    runs = [generation.generate(loaded, read.apply(loaded.model), prompt, 5) for _ in range(2)]
    assert runs[0].tokens == runs[1].tokens
    assert speaks_of("Scored." + factors_note(read.apply(loaded.model)), recipe.factors)
    assert not speaks_of("Scored." + factors_note(read.apply(loaded.model)[1:]), recipe.factors)
    assert factors_note(Recipe(model="m", kv=MIXED).apply(loaded.model)) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"factors": []}, "not those of its factors_digest"),
        ({"factors": [], "factors_digest": ""}, "has none"),
        ({"factors_digest": "ab"}, "not those of its factors_digest"),
        ({"clip": 0.5}, "not those of its factors_digest"),
        ({"channel": "%%"}, "not base64"),
        ({"channel": "AAA="}, "not those of its factors_digest"),
        ({"channel": "AA=="}, "cut off"),
        ({"clip": 3}, "less than or equal to 1"),
        ({"side": "query"}, "factors.0.side"),
    ],
)
def test_altered_factors_are_refused(tmp_path, learned, change, said):
    data = json.loads(learned[0].text())
    outer = {name: value for name, value in change.items() if name in data}
    data["factors"][0] |= {name: value for name, value in change.items() if name not in data}
    path = tmp_path / "best.json"
    path.write_text(json.dumps(data | outer))
    with pytest.raises(RecipeError, match=said):
        load_recipe(path)


def test_factors_of_another_shape_are_refused(loaded, learned):
    recipe, factors = learned
    for wrong in (Factors(np.ones((7, 8))), Factors(np.ones(8))):
        entries = stored({**factors, 1: {"key": wrong}})
        with pytest.raises(SpecError, match="Layer 1: the learned factors are for"):
            recipe.model_copy(update={"factors": entries}).apply(loaded.model)


def test_generation_counts_tokens_bytes_and_time(loaded):
    recipe = Recipe(model="m", kv=KVSpec(key=EIGHT, value=FOUR))
    prompt = generation.encode(loaded, "Topics of interest: " * 3)
    heard: list[str] = []
    run = generation.generate(loaded, recipe.apply(loaded.model), prompt, 10, say=heard.append)
    again = generation.generate(loaded, recipe.apply(loaded.model), prompt, 10)
    assert run.tokens == again.tokens
    assert "".join(heard) == run.text
    assert 1 <= len(run.tokens) <= 10
    assert run.prompt_tokens == len(prompt)
    assert run.bits_per_value == pytest.approx((9 + 5) / 2)
    assert run.prefill_rate > 0
    plain = generation.generate(loaded, generation.sixteen_bit(loaded.model), prompt, 10)
    assert plain.bits_per_value == 16
    assert plain.cache_bytes > run.cache_bytes


def test_sampling_follows_its_seed(loaded):
    prompt = generation.encode(loaded, "Topics of interest: ")
    runs = [
        generation.generate(loaded, generation.sixteen_bit(loaded.model), prompt, 12, temperature=5.0, seed=seed).tokens
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_plugged_in_cache_is_what_mlx_lm_uses(loaded):
    from mlx_lm.models.cache import make_prompt_cache

    template = Recipe(model="m", kv=KVSpec(key=EIGHT, value=FOUR)).apply(loaded.model)
    plug_in(loaded.model, template)
    try:
        first, second = make_prompt_cache(loaded.model), make_prompt_cache(loaded.model)
        assert [cache.kv for cache in first] == [cache.kv for cache in template]
        assert [cache.window for cache in first] == [cache.window for cache in template]
        assert not {id(cache) for cache in first} & {id(cache) for cache in (*second, *template)}
    finally:
        del loaded.model.make_cache


REUSED = {
    "every token on its own": KVSpec(),
    "residual window": KVSpec(**dict.fromkeys(("key", "value"), QuantSpec(method="q4_0")), residual_window=128),
    "blocks of tokens": KVSpec(**dict.fromkeys(("key", "value"), QuantSpec(method="kivi", group_size=32))),
}


@pytest.mark.parametrize(
    ("loaded", "name"),
    [
        ("llama", "blocks of tokens"),
        ("gemma3_text", "residual window"),
        ("gemma3_text", "every token on its own"),
        pytest.param("llama", "residual window", marks=pytest.mark.slow),
        pytest.param("llama", "every token on its own", marks=pytest.mark.slow),
        pytest.param("gemma3_text", "blocks of tokens", marks=pytest.mark.slow),
    ],
    indirect=["loaded"],
)
def test_a_later_request_is_given_what_a_new_cache_would_hold(loaded, name):
    """Requests that go on from an answer, part from it after three tokens, ask again, or part from the prompt."""
    plug_in(loaded.model, Recipe(model="m", kv=REUSED[name]).apply(loaded.model))
    store, rng = prompt_caches(loaded.model), np.random.default_rng(0)
    # The answer ends in another block of 32 tokens than the prompt.
    prompt, answer, other = (rng.integers(0, 89, size).tolist() for size in (310, 24, 20))
    limit = 5e-3 if name == "every token on its own" else 1e-4  # there a call is cut that was not
    cuts = {0}  # where calls ended: another cut rounds otherwise, which can turn a code
    try:
        for tokens, shared in (
            (prompt, 0),
            (prompt + answer + other, 334),
            (prompt + answer[:3] + other, 309),
            (prompt, 309),
            (prompt[:100] + other, 0),
        ):
            caches, rest = store.fetch_nearest_cache("m", tokens)
            reused = len(tokens) - len(rest)
            assert reused >= shared or any(cache.window for cache in caches)
            cuts = {cut for cut in cuts if cut < reused} | {reused, *range(len(tokens) - 1, len(tokens + answer) + 1)}
            answered = _answer(loaded.model, caches, tokens + answer, {cut for cut in cuts if cut >= reused})
            anew = _answer(loaded.model, loaded.model.make_cache(), tokens + answer, cuts)
            assert np.abs(answered - anew[-len(answered) :]).max() < limit
            store.insert_cache("m", tokens + answer, caches)
    finally:
        del loaded.model.make_cache


def _answer(model, caches, tokens, cuts):
    """Logits after each call of a run of tokens that is cut there."""
    import mlx.core as mx

    edges = itertools.pairwise(sorted(cuts))
    return np.stack([np.array(model(mx.array([tokens[low:high]]), cache=caches)[0, -1]) for low, high in edges])


def test_prompts_without_sense_are_refused(loaded):
    with pytest.raises(UsageError, match="no chat template"):
        generation.encode(loaded, "hello", chat=True)
    with pytest.raises(UsageError, match="empty"):
        generation.encode(loaded, "")


def test_the_json_is_small_and_readable():
    text = Recipe(model="m", kv=KVSpec(key=FOUR, value=FOUR, layers=tuple(range(2, 80)))).text()
    assert json.loads(text)["kv"]["key"]["method"] == "affine"
    assert len(text.splitlines()) < 40
    assert "[2, 3, 4, " in text
