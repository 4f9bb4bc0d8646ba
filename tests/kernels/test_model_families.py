"""Packed caches under real mlx-lm model code: tiny random models of several families, their attention untouched."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from swarm.kernels import attention, plugins
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.codec import Factors
from swarm.kernels.errors import ModelError, SpecError
from swarm.kernels.key_bias import KeyBias
from swarm.kernels.layers import attention_modules, trace
from swarm.kernels.model_cache import key_bias, make_cache
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

METHODS = plugins.names(base.PACKAGE)


def kv_of(name, **fields):
    spec = QuantSpec(method=name)
    value = spec if "value" in base.method(name).choices.sides else QuantSpec(method="q8_0")
    return KVSpec(key=spec, value=value, **fields)


def tokens(batch, length, seed=0):
    return mx.array(np.random.default_rng(seed).integers(0, 89, (batch, length)))


@pytest.mark.parametrize(("batch", "chunks"), [(2, [96]), (1, [1] * 96), (1, [40, 1, 55]), (2, [24] * 4)])
def test_16_bit_is_the_models_own_cache(family, chunks, batch, tiny, logits):
    """Windows of 24 are passed four times over; what remains is the rounding of K and V to 16 bit."""
    model, text = tiny(family), tokens(batch, 96)
    plain = logits(model, make_prompt_cache(model), text, chunks)
    ours = logits(model, make_cache(model), text, chunks)
    assert np.abs(ours - plain).max() < 4e-3 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("name", "family"),
    [*((name, "gemma3_text") for name in METHODS), ("kivi", "llama"), ("q4_0", "qwen2")],
)
def test_chunked_prefill_is_token_by_token(name, family, tiny, logits):
    model, text = tiny(family, seed=1), tokens(1, 50, seed=1)
    kv = kv_of(name) if name == "none" else kv_of(name, sink_tokens=2, residual_window=9)
    runs = [logits(model, make_cache(model, kv, seed=4), text, cuts) for cuts in ([50], [1] * 50, [33, 1, 16])]
    plain = logits(model, make_cache(model), text, [50])
    # Rounding in the model's own products moves a few values over a code's edge, which is little beside what
    # quantization does; a token that reads a wrong form of what is stored is off by as much.
    bound = 0.2 * np.abs(runs[0] - plain).mean() if name != "none" else 1e-3 * np.abs(plain).max()
    for other in runs[1:]:
        assert np.abs(other - runs[0]).mean() < bound
        assert np.median(np.abs(other - runs[0])) < bound / 2


def test_generation_goes_through_mlx_lm(family, tiny):
    from mlx_lm.generate import generate_step

    model, prompt = tiny(family), tokens(1, 50)[0]

    def generated(cache):
        steps = generate_step(prompt, model, max_tokens=12, prompt_cache=cache, prefill_step_size=16)
        return [token for token, _ in steps]

    assert generated(make_cache(model)) == generated(make_prompt_cache(model))
    cache = make_cache(model, kv_of("q8_0", residual_window=8))
    assert len(generated(cache)) == 12
    assert all(layer.offset in (61, 62) for layer in cache)
    assert sum(layer.nbytes for layer in cache) > 0


def test_speculative_decoding_trims(tiny):
    from mlx_lm.generate import speculative_generate_step

    model, prompt = tiny("llama"), tokens(1, 40)[0]
    cache = [*make_cache(model, kv_of("q4_0")), *make_cache(model, kv_of("q4_0"))]
    steps = speculative_generate_step(prompt, model, model, num_draft_tokens=3, max_tokens=10, prompt_cache=cache)
    assert len(list(steps)) == 10


FOLDED = [(name, family) for name in METHODS for family in ("llama", "gemma3_text")]


@pytest.mark.parametrize(
    ("name", "family"),
    [case if n % 4 in (0, 3) else pytest.param(*case, marks=pytest.mark.slow) for n, case in enumerate(FOLDED)],
)
def test_folding_the_scale_into_the_queries_changes_nothing(name, family, tiny, logits):
    """q times c and scale over c: whatever ignores the scale of the call, or guesses it, fails here."""
    text, outputs = tokens(1, 40, seed=2), []
    for fold in (1.0, 4.0):
        model = tiny(family, seed=3)
        for module in attention_modules(model, trace(model)):
            module.scale /= fold
            if family == "gemma3_text":
                module.q_norm.weight = (1 + module.q_norm.weight) * fold - 1
            else:
                module.q_proj.weight = module.q_proj.weight * fold
                if "bias" in module.q_proj:
                    module.q_proj.bias = module.q_proj.bias * fold
        heard = []
        with attention.record(heard.append):
            outputs.append(logits(model, make_cache(model, kv_of(name), seed=1), text, [30, 1, 9]))
        assert {call.scale for call in heard} == {module.scale for module in attention_modules(model, trace(model))}
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-3 * np.abs(outputs[0]).max())


def test_batches_of_equal_length_are_independent(family, tiny, logits):
    model, text = tiny(family), tokens(3, 45)
    kv = kv_of("kivi", residual_window=5)
    together = logits(model, make_cache(model, kv), text, [40, 5])
    alone = np.concatenate([logits(model, make_cache(model, kv), text[i : i + 1], [40, 5]) for i in range(3)])
    assert np.abs(together - alone).mean() < 2e-3 * np.abs(alone).max()


def test_only_the_listed_layers_are_quantized(family, tiny):
    model = tiny(family)
    kv = kv_of("q4_0", overrides=(LayerOverride(layers=(1,), key=QuantSpec(method="q8_0")),))
    caches = make_cache(model, kv.on([1]))
    model(tokens(1, 30), cache=caches)
    assert [cache.limit_bits_per_value() for cache in caches] == [6.5 if i == 1 else 16 for i in range(len(caches))]
    windows = {cache.window for cache in caches}
    assert windows == ({None, 24} if family == "gemma3_text" else {None})


@pytest.mark.parametrize("layers", [[7], [-1]])
def test_layers_that_do_not_exist(layers, tiny):
    with pytest.raises(SpecError, match="does not exist"):
        make_cache(tiny("llama"), kv_of("q4_0").on(layers))
    override = LayerOverride(layers=(9,), key=QuantSpec(method="q8_0"))
    with pytest.raises(SpecError, match="Layer 9"):
        make_cache(tiny("llama"), kv_of("q4_0", overrides=(override,)))


def test_a_group_that_does_not_divide_the_head_size_names_the_layer(tiny):
    with pytest.raises(SpecError, match=r"Layer 0: group_size=128 .*head size 64"):
        make_cache(tiny("llama"), KVSpec(key=QuantSpec(method="affine", group_size=128)))


class TestKeyBias:
    def test_scores_keep_the_bias_exactly(self, tiny, logits):
        """8-bit keys with a bias many times the rest: subtracting leaves almost no error, keeping it a large one."""
        model, text = tiny("qwen2", seed=5), tokens(2, 60, seed=5)
        exact = logits(model, make_cache(model), text, [50, 10])
        errors = {}
        for choice in ("keep", "subtract"):
            kv = KVSpec(key=QuantSpec(method="q4_0"), key_bias=choice, residual_window=3)
            errors[choice] = np.abs(logits(model, make_cache(model, kv), text, [50, 10]) - exact).mean()
        assert errors["subtract"] < errors["keep"] / 4

    @pytest.mark.parametrize("traditional", [False, True])
    @pytest.mark.parametrize("dims", [64, 32])
    @pytest.mark.parametrize("position", [0, 5, 1023, 1024, 40_000])
    def test_tables_are_the_models_rope(self, dims, traditional, position):
        import mlx.nn as nn

        rng = np.random.default_rng(dims)
        rope = nn.RoPE(dims, traditional=traditional, base=1e6)
        bias = KeyBias(rng.standard_normal((2, 64)), rope)
        expected = np.array(rope(mx.array(bias.bias[None, :, None]), offset=position))[0, :, 0]
        np.testing.assert_allclose(bias.keys(np, position, position + 3)[:, 0], expected, atol=2e-5)
        q = rng.standard_normal((1, 2, 4, 64)).astype(np.float32)
        scores = bias.features(q) @ bias.table(np, position, position + 3).T
        np.testing.assert_allclose(scores, q @ bias.keys(np, position, position + 3).swapaxes(-1, -2), atol=2e-4)

    def test_models_without_one_are_refused(self, tiny):
        with pytest.raises(SpecError, match=r"Layer 0.*no bias"):
            make_cache(tiny("llama"), kv_of("q8_0", key_bias="subtract"))

    def test_it_is_read_from_the_model(self, tiny):
        model = tiny("qwen2")
        layers = trace(model)
        module = attention_modules(model, layers)[1]
        np.testing.assert_array_equal(key_bias(module, layers[1].shape).bias.ravel(), np.array(module.k_proj.bias))

    def test_a_state_needs_its_model_again(self, tiny):
        model = tiny("qwen2")
        kv = kv_of("q8_0", key_bias="subtract")
        caches = make_cache(model, kv)
        model(tokens(1, 20), cache=caches)
        with pytest.raises(ModelError, match="make_cache"):
            PackedKVCache.from_state(caches[0].state)
        again = make_cache(model, kv)
        for cache, old in zip(again, caches, strict=True):
            cache.state = old.state
        left, right = (np.array(model(tokens(1, 3, 9), cache=c)) for c in (caches, again))
        np.testing.assert_array_equal(left, right)


def test_learned_factors_are_asked_for_and_used(tiny, logits):
    model, text = tiny("llama"), tokens(1, 40)
    spec = QuantSpec(method="affine", bits=4, scaling="learned")
    kv = KVSpec(key=spec, value=spec)
    rng = np.random.default_rng(0)
    factors = {layer: {side: Factors(rng.uniform(0.5, 2, (2, 64))) for side in ("key", "value")} for layer in range(3)}
    for wrong, said in (
        ({}, "Layer 0: its keys .* has none"),
        ({**factors, 2: {"key": factors[2]["key"]}}, "Layer 2: its values .* has none"),
        (
            {**factors, 1: {**factors[1], "key": Factors(np.ones((3, 64)))}},
            "Layer 1: .* 3 heads of size 64, not 2 of 64",
        ),
        ({**factors, 1: {**factors[1], "key": Factors(np.ones(32))}}, "Layer 1: .* of size 32"),
    ):
        with pytest.raises(SpecError, match=said):
            make_cache(model, kv, factors=wrong)
    with pytest.raises(SpecError, match="given some"):
        make_cache(model, kv.on((0, 1)), factors=factors)
    exact = logits(model, make_cache(model), text)
    learned = logits(model, make_cache(model, kv, factors=factors), text)
    assert np.abs(learned - exact).mean() < 0.1 * np.abs(exact).max()


def test_a_model_that_keeps_no_keys_and_values_is_refused():
    from mlx_lm.models import mamba

    model = mamba.Model(
        mamba.ModelArgs(
            model_type="mamba", vocab_size=50, hidden_size=32, intermediate_size=64, state_size=8,
            num_hidden_layers=2, conv_kernel=4, use_bias=False, use_conv_bias=True, time_step_rank=4,
        )
    )  # fmt: skip
    with pytest.raises(ModelError, match="mamba keeps no keys and values"):
        make_cache(model)


def test_bits_are_known_before_the_first_token(family, tiny):
    caches = make_cache(tiny(family), kv_of("turboquant_mse"))
    assert [cache.bits_per_value() for cache in caches] == [4.25] * len(caches)
    with pytest.raises(ModelError, match="not known yet"):
        PackedKVCache().limit_bits_per_value()
