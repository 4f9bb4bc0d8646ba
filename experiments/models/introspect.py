"""Facts about any mlx-lm model: from its configuration, its modules, and the trace of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.experiments.models.base import ModelInfo
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.nn as nn


def inspect(model: nn.Module, config: dict[str, Any], name: str, *, bos: bool, digest: str = "") -> ModelInfo:
    """Facts of `model` (weights may be unevaluated) with its configuration dictionary.

    Raises:
        ModelError: the model keeps no keys and values, or its layers cannot be traced.
    """
    from swarm.kernels import layers

    text = {**config, **config.get("text_config", {})}
    try:
        traced = layers.trace(model)
        layers.check(model, traced)
    except ModelError as error:
        raise ModelError(f"{name}: {error.problem}", error.remedy) from error
    attention = [dict(layer.named_modules()) for layer in model.layers]  # by path, e.g. `self_attn.k_proj`
    heads = [layer.query_heads for layer in traced if layer.query_heads]
    return ModelInfo(
        name=name,
        family=str(config.get("model_type", "")),
        digest=digest,
        layers=tuple(layer.shape for layer in traced),
        n_heads=heads[0] if heads else int(text["num_attention_heads"]),
        scales=tuple(layer.scale for layer in traced),
        scale_kind="learned" if any(_has_qk_norm(names) for names in attention) else "fixed",
        key_bias=any(_has_key_bias(names) for names in attention),
        vocab_size=int(text["vocab_size"]),
        max_context=int(text.get("max_position_embeddings") or text.get("n_positions") or 2048),
        bos=bos,
        available=True,
    )


def _has_qk_norm(modules: dict[str, nn.Module]) -> bool:
    """Queries and keys are normalised per head with trained weights (q_norm, k_layernorm, ... in mlx-lm)."""
    return any(
        path.rsplit(".", 1)[-1].startswith(("q_", "k_", "query_", "key_", "qk_"))
        and "norm" in path
        and "_a_" not in path
        and bool(module.parameters())
        for path, module in modules.items()
    )


def _has_key_bias(modules: dict[str, nn.Module]) -> bool:
    projections = ("k_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "wqkv", "qkv")
    return any(path.rsplit(".", 1)[-1] in projections and "bias" in module for path, module in modules.items())
