"""What is served together, and what requests begin with, also where layers keep caches of mlx-lm's own."""

from contextlib import contextmanager

import numpy as np
import pytest
from families import build
from tiny_models import write_tiny_model

from swarm.experiments.deploy import batching
from swarm.experiments.deploy.recipe import Evidence, Recipe
from swarm.experiments.deploy.serving import plug_in, prompt_caches
from swarm.experiments.models import registry
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return registry.load(str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "gemma3_text", seed=1)))


@contextmanager
def served(family):
    """A small random model of a family that makes packed caches."""
    with build.uncompiled():
        model = build.build(family)
        plug_in(model, make_cache(model, "q8_0"))
        yield model
        del model.make_cache


def test_a_model_is_batched_or_a_reason_is_given(loaded, monkeypatch):
    from mlx_lm.models import cache as mlx_caches

    assert batching.limits(loaded.model) == batching.Limits(batching.MAX_PROMPTS, batching.MAX_ANSWERS)
    short = make_cache(loaded.model)[:1]
    for make, reason in (
        (lambda: [mlx_caches.QuantizedKVCache() for _ in loaded.model.layers], "no batches of QuantizedKVCache"),
        (lambda: short, "trial batch failed: IndexError"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(loaded.model, "make_cache", make, raising=False)
            found = batching.limits(loaded.model)
            assert (found.prompts, found.answers) == (1, 1)
            assert reason in found.reason


def test_attention_within_chunks_is_served_alone():
    with served("llama4") as model:
        found = batching.limits(model)
    assert (found.prompts, found.answers) == (1, 1)
    assert "no batches of attention within chunks" in found.reason


def test_prompts_are_not_padded_where_a_family_reads_padding():
    """Jamba's recurrent states take padding in as if it were text."""
    with served("jamba") as model:
        found = batching.limits(model)
    assert (found.prompts, found.answers) == (1, batching.MAX_ANSWERS)
    assert "padded prompts" in found.reason


@pytest.mark.parametrize("family", ["gpt_oss", "plamo3", "qwen3_next", "gemma3n"])
def test_learned_sinks_masks_and_states_are_batched(family):
    """Sinks and a window's mask come to the threads that read sequences; a hybrid's states are mlx-lm's to batch."""
    with served(family) as model:
        assert batching.limits(model).prompts == batching.MAX_PROMPTS


@pytest.mark.parametrize(("family", "reused"), [("qwen3", 23), ("qwen3_next", 0)])
def test_a_text_that_is_all_remembered_leaves_a_token_to_compute(family, reused):
    """Recurrent states cannot be taken back by that token."""
    import mlx.core as mx

    with served(family) as model:
        store = prompt_caches(model)
        tokens = build.text(1, 24).tolist()[0]
        for expected in (0, reused):
            caches, rest = store.fetch_nearest_cache("m", tokens)
            assert len(tokens) - len(rest) == expected
            got = np.array(model(mx.array([rest]), cache=caches)[0, -1])
            want = np.array(model(mx.array([tokens]), cache=model.make_cache())[0, -1])
            assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
            store.insert_cache("m", tokens, caches)


def test_a_hybrid_goes_on_from_an_earlier_text_and_begins_anew_where_it_parts_from_it():
    """Recurrent states cannot be taken back."""
    import mlx.core as mx

    with served("qwen3_next") as model:
        store = prompt_caches(model)
        first = build.text(1, 24).tolist()[0]
        for tokens, reused in ((first, 0), ([*first, 5, 6, 7], 24), ([*first[:20], 1, 2], 0)):
            caches, rest = store.fetch_nearest_cache("m", tokens)
            assert len(tokens) - len(rest) == reused
            got = np.array(model(mx.array([rest]), cache=caches)[0, -1])
            want = np.array(model(mx.array([tokens]), cache=model.make_cache())[0, -1])
            assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
            store.insert_cache("m", tokens, caches)


def test_a_recipe_made_for_other_layers_says_whose_it_is():
    evidence = Evidence(
        trial=1, campaign="c", fingerprint="f", protocol="quality", rung=1, context=512, notes="", metrics={}
    )
    kv = KVSpec.parse("K q8_0 V q8_0 layers 0-3")
    with build.uncompiled():
        model = build.build("qwen3_next")
        with pytest.raises(SpecError, match=r"^A recipe made on llama-x: Layer 0 keeps a state"):
            Recipe(model="llama-x", kv=kv, evidence=evidence).apply(model)
        with pytest.raises(SpecError, match=r"^Layer 0 keeps a state"):
            Recipe(model="llama-x", kv=kv).apply(model)
