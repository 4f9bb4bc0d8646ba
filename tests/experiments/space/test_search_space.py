import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.experiments.identity import fingerprint
from swarm.experiments.protocols import base as protocols
from swarm.experiments.space.layers import (
    ALL,
    BAND,
    PROTECT,
    SINGLE,
    UPTO,
)
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.experiments.space.sides import side
from swarm.experiments.space.suggest import GivenTrial, RandomTrial
from swarm.experiments.spec import TrialSpec
from swarm.kernels import plugins
from swarm.kernels.errors import SpecError, UnknownNameError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

SCOPES = (ALL, PROTECT, BAND, SINGLE, UPTO)
MODELS = ("plain", "wide", "biased", "odd", "shallow", "mixed", "latent")
MEASURED = [(m, p) for m in MODELS for p in protocols.searchable() if (m, p) != ("latent", "attention")]

EIGHT = QuantSpec(method="affine", bits=8)


class Recorder(RandomTrial):
    """Remembers every distribution that was asked for."""

    def __init__(self, rng, seen):
        super().__init__(rng)
        self.seen = seen

    def suggest_categorical(self, name, choices):
        assert self.seen.setdefault(name, tuple(choices)) == tuple(choices)
        return super().suggest_categorical(name, choices)

    def suggest_int(self, name, low, high):
        assert self.seen.setdefault(name, (low, high)) == (low, high)
        return super().suggest_int(name, low, high)


@pytest.fixture
def space(infos):
    return Space(list(infos.values()), corpus_digest="c")


@pytest.mark.parametrize(("model", "protocol"), MEASURED)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_params_are_the_inverse_of_suggest(space, infos, model, protocol, seed):
    rng = np.random.default_rng(seed)
    for _ in range(12):
        spec = space.random(rng, infos[model], protocol)
        again = space.suggest(GivenTrial(space.params(spec)), infos[model], protocol)
        assert again == spec
        assert space.params(again) == space.params(spec)
        assert KVSpec.parse(spec.kv.label) == KVSpec.parse(spec.kv.short_label) == spec.kv


@pytest.mark.parametrize(("model", "protocol"), MEASURED)
def test_a_parameter_always_has_the_same_distribution(space, infos, model, protocol):
    rng, seen = np.random.default_rng(3), {}
    for _ in range(300):
        space.suggest(Recorder(rng, seen), infos[model], protocol)
    assert "key.method" in seen


def test_latents_are_not_measured_by_the_attention_protocol(space, infos):
    with pytest.raises(SpecError, match="no layer of latent"):
        space.random(np.random.default_rng(0), infos["latent"], "attention")


def test_layers_of_a_kind_may_have_other_bits(space, infos):
    info, rng = infos["mixed"], np.random.default_rng(5)
    assert info.kinds == ("global", "windowed")
    found = [space.random(rng, info) for _ in range(300)]
    layers = {override.layers for spec in found for override in spec.kv.overrides}
    assert {info.of_kind("global"), info.of_kind("windowed")} <= layers
    assert all(set(spec.layers or ()) | {n for one in layers for n in one} <= set(info.kv_layers) for spec in found)
    assert not any(spec.kv.key.scaling == "learned" for spec in (space.random(rng, infos["latent"]) for _ in range(99)))


def test_random_is_seeded_and_varied(space, infos):
    draws = [[space.random(np.random.default_rng(seed), infos["plain"]) for _ in range(1)] for seed in (5, 5, 6)]
    assert draws[0] == draws[1]
    rng = np.random.default_rng(0)
    assert len({fingerprint(space.random(rng, infos["plain"])) for _ in range(100)}) > 80


@pytest.mark.parametrize("model", MODELS)
def test_random_trials_fit_their_model(space, infos, model):
    rng, info = np.random.default_rng(1), infos[model]
    for protocol in (protocol for name, protocol in MEASURED if name == model):
        for _ in range(50):
            spec = space.random(rng, info, protocol)
            protocols.check_model(spec, info)
            assert spec.context <= info.max_context
            assert (spec.model, spec.model_digest, spec.corpus_digest) == (model, info.digest, "c")


@pytest.mark.parametrize("method", plugins.names(base.PACKAGE))
def test_every_method_is_reachable(space, infos, method):
    rng, sides = np.random.default_rng(2), base.method(method).choices.sides
    kvs = [space.random(rng, infos["wide"]).kv for _ in range(400)]
    assert any(kv.key.method == method for kv in kvs) == ("key" in sides)
    assert any(kv.value.method == method for kv in kvs) == ("value" in sides)


@pytest.mark.parametrize("model", MODELS)
def test_defaults_hold_the_16_bit_run_and_every_method(space, infos, model):
    specs = space.defaults(infos[model])
    assert specs[0].kv == KVSpec()
    assert len({fingerprint(spec) for spec in specs}) == len(specs)
    used = {quant.method for spec in specs for quant in (spec.kv.key, spec.kv.value)}
    assert used == {m for name in ("key", "value") for m in side(name, *infos[model].dims(name)).methods}
    for spec in specs:
        protocols.check_model(spec, infos[model])
        assert space.suggest(GivenTrial(space.params(spec)), infos[model]) == spec


@pytest.mark.parametrize("model", MODELS)
def test_layers_at_the_ends_may_have_other_bits(space, infos, model):
    rng, n = np.random.default_rng(4), len(infos[model].kv_layers)
    found = [space.random(rng, infos[model]) for _ in range(400)]
    graded = [spec for spec in found if spec.kv.overrides]
    assert bool(graded) == (n > 2)
    for spec in graded:
        assert spec.layers is None
        for layer in infos[model].kv_layers:
            ours = spec.kv.at(layer)
            for here, elsewhere in ((ours.key, spec.kv.key), (ours.value, spec.kv.value)):
                assert here.method in (elsewhere.method, "none")
    widths = {override.key.bits for spec in graded for override in spec.kv.overrides if override.key}
    assert not graded or (16 in widths and len(widths) > 3)


def test_ends_are_put_on_a_trial(space, infos):
    quant = QuantSpec(method="affine", bits=4)
    spec = space.defaults(infos["plain"])[0].model_copy(
        update={"kv": KVSpec(key=quant, value=QuantSpec(method="kivi"))}
    )
    found = space.with_edge_layers(spec, 2, 1, key_bits=8, value_bits=7)
    assert [found.kv.at(layer).key.bits for layer in range(6)] == [8, 8, 4, 4, 4, 8]
    assert [found.kv.at(layer).value.bits for layer in range(6)] == [8, 8, 2, 2, 2, 8]
    assert space.suggest(GivenTrial(space.params(found)), infos["plain"]) == found
    assert space.with_edge_layers(spec, 2, 1, key_bits=4) == spec
    with pytest.raises(SpecError, match="up to 2 at each end"):
        space.with_edge_layers(spec, 3, 1, key_bits=8)
    with pytest.raises(SpecError, match="name layer 0"):
        space.with_edge_layers(spec.model_copy(update={"kv": spec.kv.on((1, 2))}), 1, 0, key_bits=8)


def test_models_with_a_key_bias_begin_with_what_may_recover_them(space, infos):
    plain, biased = (space.defaults(infos[model]) for model in ("plain", "biased"))
    more = [spec.kv for spec in biased if spec.kv not in {spec.kv for spec in plain}]
    assert {kv.key_bias for kv in more} == {"keep", "subtract"}
    assert {kv.key.method for kv in more} == {"affine", "kivi"}
    assert any(kv.overrides for kv in more)


def test_key_bias_is_a_choice_only_where_there_is_one(space, infos):
    rng = np.random.default_rng(0)
    kept = {model: {space.random(rng, infos[model]).kv.key_bias for _ in range(60)} for model in ("plain", "biased")}
    assert kept == {"plain": {"keep"}, "biased": {"keep", "subtract"}}


@pytest.mark.parametrize(
    "change",
    [
        {"kv": KVSpec(key=QuantSpec(method="affine"), sink_tokens=3)},
        {"kv": KVSpec(key=QuantSpec(method="affine"), layers=(0, 2))},
        {"kv": KVSpec(key=QuantSpec(method="affine"), residual_window=7)},
        {"logit_gain": 2.0},
        {"kv": KVSpec(key=EIGHT, overrides=(LayerOverride(layers=(1,), key=QuantSpec()),))},
        {"kv": KVSpec(key=EIGHT, overrides=(LayerOverride(layers=(0, 1, 2), key=QuantSpec()),))},
        {"kv": KVSpec(key=EIGHT, overrides=(LayerOverride(layers=(0,), key=QuantSpec(method="q8_0")),))},
        {"context": 300},
    ],
)
def test_what_the_space_does_not_contain_is_said(space, infos, change):
    with pytest.raises(SpecError):
        space.params(space.defaults(infos["plain"])[0].model_copy(update=change))


def test_foreign_models_and_protocols_are_refused(space, infos):
    with pytest.raises(UnknownNameError, match="nobody"):
        space.params(TrialSpec(model="nobody"))
    with pytest.raises(SpecError, match="simulated"):
        space.random(np.random.default_rng(0), infos["plain"], "simulated")
    with pytest.raises(SpecError, match=r"key\.method"):
        space.suggest(GivenTrial({}), infos["plain"])


def test_shares_decide_the_protocol(infos):
    space = Space(list(infos.values()), SpaceSettings(shares={"quality": 3.0, "depth": 1.0}))
    rng = np.random.default_rng(0)
    drawn = [space.protocol(rng) for _ in range(400)]
    assert set(drawn) == {"quality", "depth"}
    assert 0.65 < drawn.count("quality") / 400 < 0.85


@pytest.mark.parametrize("scope", SCOPES)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_scopes_are_invertible(scope, n, seed):
    layers = scope.suggest(RandomTrial(np.random.default_rng(seed)), "p.", n)
    assert layers is None or (layers and layers[-1] < n)
    params = scope.params(layers, "p.", n)
    assert params is not None
    assert scope.suggest(GivenTrial(params), "p.", n) == layers


@given(layers=st.sets(st.integers(0, 11), min_size=1), n=st.just(12))
def test_scopes_know_what_they_cannot_express(layers, n):
    chosen = tuple(sorted(layers))
    for scope in SCOPES:
        params = scope.params(chosen, "", n)
        if params is not None:
            assert (scope.suggest(GivenTrial(params), "", n) or tuple(range(n))) == chosen
