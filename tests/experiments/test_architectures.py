"""Models whose layers keep different things, from measuring to generating: small, with layers as large ones have."""

import pytest
from tiny_models import MIXED, write_tiny_model

import swarm
from swarm.experiments.deploy import generation
from swarm.experiments.deploy.recipe import Recipe
from swarm.experiments.models import registry
from swarm.kernels.errors import SpecError

KINDS = {
    "llama": ("global",),
    "gemma4_text": ("global", "windowed"),
    "qwen3_next": ("global",),
    "qwen3": ("global",),
    "deepseek_v3": ("latent",),
}


SHORT = ("gemma4_text", "qwen3_next", "deepseek_v3")


@pytest.fixture(
    scope="module",
    params=[family if family in SHORT else pytest.param(family, marks=pytest.mark.slow) for family in MIXED],
)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / request.param
    return str(write_tiny_model(path, request.param, seed=2, given=MIXED[request.param]))


@pytest.fixture(scope="module")
def info(folder):
    return registry.describe(folder)


def measured(folder, kv, protocol="quality", **fields):
    found = swarm.measure(folder, kv, protocol=protocol, context=96, **fields)
    return {metric.name: metric.value for metric in found.metrics}


def test_layers_are_of_the_kinds_that_the_large_model_has(info):
    assert info.kinds == KINDS[info.family]
    assert info.kv_layers == {"qwen3_next": (3, 7)}.get(info.family, tuple(range(4)))
    assert info.n_layers == {"qwen3_next": 8, "gemma4_text": 6}.get(info.family, 4)


def test_what_it_costs_is_measured(folder, info):
    exact, eight, four = (measured(folder, kv) for kv in ("none", "q8_0", "q4_0"))
    assert exact["kld"] <= exact["noise_kld"] + 1e-6
    assert exact["kld"] < eight["kld"] < four["kld"]
    assert (eight["bits_per_value"], four["bits_per_value"]) == (8.5, 4.5)
    assert ("cache_bytes" in eight) == any(layer.state_bytes for layer in info.layers)
    whole = measured(folder, "q4_0", rung=1)
    assert whole["kld"] > 0


def test_one_layer_alone_is_measured_by_its_number(folder, info):
    last = info.kv_layers[-1]
    alone = measured(folder, f"q4_0 layer {last}", "depth")
    assert 0 < alone["kld"] < measured(folder, "q4_0")["kld"]
    for layer in set(range(info.n_layers)) - set(info.kv_layers):
        with pytest.raises(SpecError, match=f"layer {layer} .* keeps no keys and values"):
            measured(folder, f"q4_0 layer {layer}", "depth")


def test_attention_is_measured_where_it_shows(folder, info):
    if info.shown_layers:
        assert 0 < measured(folder, "q4_0", "attention")["output_rel_error"] < 1
    else:
        with pytest.raises(SpecError, match="out of sight"):
            measured(folder, "q4_0", "attention")


def test_a_recipe_generates(folder, info):
    loaded = registry.load(folder)
    prompt = generation.encode(loaded, "a few words to go on from, and then some more", chat=False)
    runs = []
    for kv in ("none", "q8_0"):
        recipe = Recipe(model=folder, model_digest=info.digest, kv=kv, seed=1)
        runs.append(generation.generate(loaded, recipe.apply(loaded.model), prompt, 12))
    own = generation.generate(loaded, generation.sixteen_bit(loaded.model), prompt, 12)
    assert runs[0].tokens == own.tokens
    assert len(runs[1].tokens) == 12
    assert runs[1].bits_per_value == pytest.approx(8.5)
    assert runs[1].cache_bytes < runs[0].cache_bytes
