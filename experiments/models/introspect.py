"""Facts about any mlx-lm model: from its configuration, its modules, and one unevaluated pass through them.

The pass costs nothing (MLX builds shapes without computing) and shows what every attention layer really does: its
heads, head size and logit scale, whatever the family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.experiments.models.base import ModelInfo
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn


class _Probe:
    """Stands in for a layer's KV cache: notes shapes, stores nothing.

    The attributes `bits` and `group_size` lead mlx-lm's attention to its entry for quantized caches.
    """

    bits = 16
    group_size = 1
    offset = 0

    def __init__(self) -> None:
        self.keys: tuple[int, ...] | None = None
        self.values: tuple[int, ...] = ()

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys.shape, values.shape
        return keys, values

    def make_mask(self, *_: Any, **__: Any) -> None:
        return None


def inspect(model: nn.Module, config: dict[str, Any], name: str, *, bos: bool, digest: str = "") -> ModelInfo:
    """Facts of `model` (weights may be unevaluated) with its configuration dictionary.

    Raises:
        ModelError: layers without a KV cache of the usual kind (state-space layers, latent attention).
    """
    text = {**config, **config.get("text_config", {})}
    probes, queries = _trace(model, name)
    shapes = {probe.keys[1::2] for probe in probes if probe.keys is not None}
    sizes = {(probe.keys[3], probe.values[3]) for probe in probes if probe.keys is not None}
    for key_dim, value_dim in sizes:
        if key_dim == value_dim:
            continue
        kind = "multi-head latent attention" if text.get("kv_lora_rank") else "its attention"
        raise ModelError(
            f"{name}: {kind} keeps {key_dim} values of each key and {value_dim} of each value.",
            "Packed caches take keys and values of one size: choose another model.",
        )
    if len(shapes) == 1 and not queries:
        raise ModelError(
            f"{name}: this {config.get('model_type')} model computes its attention itself, past mlx-lm's own function.",
            "Its cache cannot be packed: choose another model.",
        )
    if len(shapes) != 1 or len(queries) != len(probes):
        raise ModelError(
            f"{name}: not every layer of this {config.get('model_type')} model has a plain key-value cache.",
            "Choose a model with ordinary (grouped-query) attention in all layers.",
        )
    n_kv_heads, head_dim = shapes.pop()
    attention = [dict(layer.named_modules()) for layer in model.layers]  # by path, e.g. `self_attn.k_proj`
    return ModelInfo(
        name=name,
        family=str(config.get("model_type", "")),
        digest=digest,
        n_layers=len(probes),
        n_heads=queries[0][0],
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        scales=tuple(scale for _, scale in queries),
        scale_kind="learned" if any(_has_qk_norm(names) for names in attention) else "fixed",
        windows=_windows(model),
        key_bias=any(_has_key_bias(names) for names in attention),
        vocab_size=int(text["vocab_size"]),
        max_context=int(text.get("max_position_embeddings") or text.get("n_positions") or 2048),
        bos=bos,
        available=True,
    )


def _trace(model: nn.Module, name: str) -> tuple[list[_Probe], list[tuple[int, float]]]:
    """One pass over two tokens, nothing evaluated: what reached the caches, and (query heads, scale) per layer."""
    import mlx.core as mx
    from mlx_lm.models import base

    probes = [_Probe() for _ in model.layers]
    queries: list[tuple[int, float]] = []

    def note(q: mx.array, _keys: mx.array, values: mx.array, *, scale: float, **_: Any) -> mx.array:
        queries.append((q.shape[1], float(scale)))
        return mx.broadcast_to(values[:, :1, :1], (*q.shape[:-1], values.shape[-1]))

    original = base.quantized_scaled_dot_product_attention
    base.quantized_scaled_dot_product_attention = note
    try:
        model(mx.zeros((1, 2), mx.int32), cache=probes)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{name}: the layers of this model cannot be traced ({error}).",
            "Choose a model with ordinary (grouped-query) attention in all layers.",
        ) from error
    finally:
        base.quantized_scaled_dot_product_attention = original
    return probes, queries


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


def _windows(model: nn.Module) -> tuple[int | None, ...]:
    """Sliding windows as mlx-lm's own caches have them."""
    from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

    return tuple(
        int(cache.max_size) if isinstance(cache, RotatingKVCache) else None for cache in make_prompt_cache(model)
    )
