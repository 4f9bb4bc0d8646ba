"""Tiny random mlx-lm models and vectors that look like keys."""

import numpy as np
import pytest


@pytest.fixture
def vectors():
    """vectors(shape, seed): heavy-tailed values with an outlier channel, as float32."""

    def make(shape, seed=0, scale=1.0):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(shape) * np.exp(0.5 * rng.standard_normal((*shape[:-1], 1)))
        x[..., seed % shape[-1]] *= 6
        return (scale * x).astype(np.float32)

    return make


def _llama(mx):
    from mlx_lm.models import llama

    return llama.Model(
        llama.ModelArgs(
            model_type="llama", hidden_size=96, num_hidden_layers=3, intermediate_size=128, num_attention_heads=6,
            num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-5, vocab_size=89,
        )
    )  # fmt: skip


def _gemma3(mx):
    from mlx_lm.models import gemma3_text

    return gemma3_text.Model(
        gemma3_text.ModelArgs(
            model_type="gemma3_text", hidden_size=96, num_hidden_layers=4, intermediate_size=128,
            num_attention_heads=4, num_key_value_heads=1, head_dim=64, vocab_size=89, sliding_window=24,
            sliding_window_pattern=3,
        )
    )  # fmt: skip


def _qwen2(mx):
    from mlx_lm.models import qwen2

    model = qwen2.Model(
        qwen2.ModelArgs(
            model_type="qwen2", hidden_size=256, num_hidden_layers=2, intermediate_size=128, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=89,
        )
    )  # fmt: skip
    for layer in model.layers:
        layer.self_attn.k_proj.bias = 8 * mx.random.normal(layer.self_attn.k_proj.bias.shape)
    return model


FAMILIES = {"llama": _llama, "gemma3_text": _gemma3, "qwen2": _qwen2}


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def tiny():
    """tiny(family, seed): a small random model of that mlx-lm family."""

    def build(name, seed=0):
        import mlx.core as mx

        mx.random.seed(seed)
        model = FAMILIES[name](mx)
        mx.eval(model.parameters())
        return model

    return build


@pytest.fixture
def logits():
    """logits(model, cache, tokens, chunks): the model's logits, the tokens fed in chunks of these sizes."""

    def run(model, cache, tokens, chunks=None):
        import mlx.core as mx

        parts, start = [], 0
        for size in chunks or [tokens.shape[1]]:
            parts.append(model(tokens[:, start : start + size], cache=cache))
            mx.eval(parts[-1])
            start += size
        return np.array(mx.concatenate(parts, axis=1))

    return run
