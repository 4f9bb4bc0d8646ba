import mlx.core as mx
import numpy as np
import pytest
from tiny_models import FAMILIES

from swarm.experiments.measurement.forward import Entry, ForwardPass
from swarm.experiments.models import registry
from swarm.kernels.errors import ModelError
from swarm.kernels.model_cache import make_cache


@pytest.fixture(scope="module")
def models(tiny_models):
    return {family: registry.load(name).model for family, name in tiny_models.items()}


def tokens(seed, windows=2, length=9):
    return np.random.default_rng(seed).integers(2, 258, size=(windows, length))


def plain(model, ids):
    return np.array(model(mx.array(ids), cache=make_cache(model)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_are_the_models_own(models, family, seed):
    model, ids = models[family], tokens(seed)
    expected = plain(model, ids)
    probe = ForwardPass(model)
    np.testing.assert_array_equal(probe.logits(ids, make_cache(model)), expected)
    some = [1, 5, 8]
    np.testing.assert_allclose(
        probe.logits(ids, make_cache(model), scored=some), expected[:, some], rtol=1e-4, atol=1e-4
    )
    assert probe.logits(ids, make_cache(model), scored=[]).shape == (2, 0, expected.shape[-1])
    chosen = np.array([3, 17, 250])
    part = probe.logits(ids, make_cache(model), vocabulary=probe.rows(chosen))
    np.testing.assert_allclose(part, expected[..., chosen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_can_begin_at_any_layer(models, family):
    model, ids = models[family], tokens(2)
    probe, hidden = ForwardPass(model), {}
    whole = probe.logits(ids, make_cache(model), watch=hidden.__setitem__)
    assert sorted(hidden) == list(range(len(probe.layers)))
    for layer in range(1, len(probe.layers)):
        later, caches = {}, make_cache(model)
        entered = probe.logits(ids, caches, entry=Entry(layer, hidden[layer - 1]), watch=later.__setitem__)
        np.testing.assert_array_equal(entered, whole)
        assert sorted(later) == list(range(layer, len(probe.layers)))
        assert [cache.empty() for cache in caches] == [number < layer for number in range(len(caches))]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_as_it_was(models, family):
    model, ids = models[family], tokens(3)
    before = plain(model, ids)
    probe = ForwardPass(model)

    def fail(number, hidden):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        probe.logits(ids, make_cache(model), scored=[0], vocabulary=probe.rows(np.array([1])), watch=fail)
    np.testing.assert_array_equal(plain(model, ids), before)


def test_the_rows_of_a_packed_head_are_what_it_multiplies_with(tiny_models):
    import mlx.nn as nn

    model = registry.load(tiny_models["llama"]).model
    nn.quantize(model, group_size=32, bits=4)
    ids, probe = tokens(4), ForwardPass(model)
    expected = probe.logits(ids, make_cache(model))
    chosen = np.array([0, 9, 200])
    part = probe.logits(ids, make_cache(model), vocabulary=probe.rows(chosen))
    np.testing.assert_allclose(part, expected[..., chosen], rtol=1e-3, atol=1e-3)


def test_a_model_without_a_vocabulary_is_refused(models):
    class Headless:
        layers = models["llama"].layers

        def modules(self):
            return [module for layer in self.layers for module in layer.modules()]

    with pytest.raises(ModelError, match="vocabulary"):
        ForwardPass(Headless())
