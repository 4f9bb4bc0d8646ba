"""Reads the shape of a model's cache from the fields of its config.json, without its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from swarm.experiments.sizing.fields import Config, complete, optional, positive, trained_window
from swarm.experiments.sizing.layer_kinds import CACHELESS, PLAIN, RECURRENT, STATE_SPACE, WINDOWED, layer_kinds
from swarm.experiments.sizing.shape import ModelShape, gated_delta_net, state_space
from swarm.kernels.errors import ModelError
from swarm.kernels.layer_shape import LayerShape

# Families whose softmax has a learned extra logit per head: in all layers, or by a flag for full and windowed ones.
SINKS: Mapping[str, tuple[str, ...]] = {
    "gpt_oss": (),
    "mimo_v2_flash": ("add_full_attention_sink_bias", "add_swa_attention_sink_bias"),
}


class UnknownFamilyError(ModelError):
    """A config.json whose cache cannot be read from its fields alone."""


def read(config: Config, name: str, *, strict: bool = True) -> ModelShape:
    """The shape that a config.json describes.

    Args:
        config: its content; a nested `text_config` is used when there is one.
        name: what to call the model.
        strict: refuse families that are not known here; otherwise they are read as plain attention in every layer.

    Raises:
        UnknownFamilyError: the family is not known here.
        ModelError: fields that are needed are missing or make no sense.
    """
    return of_fields(complete(config), name, strict=strict)


def of_fields(fields: Config, name: str, *, strict: bool = True) -> ModelShape:
    """The shape that complete fields describe, under the names of `fields.complete`; errors as for `read`."""
    family = str(fields.get("model_type", "unknown"))
    n_layers = positive(fields, "num_hidden_layers", name)
    kinds = layer_kinds(fields, family, n_layers)
    if kinds is None and strict:
        raise UnknownFamilyError(f"the family {family!r} of {name} is not known.", "Give another model.")
    notes = (
        (f"the family {family!r} is not known: read as attention over everything in all layers",)
        if kinds is None
        else ()
    )
    shared = optional(fields, "num_kv_shared_layers", name) or 0
    found = kinds or ["full_attention"] * n_layers
    own = tuple(_layer(fields, name, i, kind) for i, kind in enumerate(found[: max(0, n_layers - shared)]))
    max_context = trained_window(fields, name)
    layers, ignored = _used_windows(own, family, max_context, listed=bool(fields.get("layer_types")))
    return ModelShape(
        name=name,
        family=family,
        layers=layers + tuple(_shared(layers, found, layer) for layer in range(len(own), n_layers)),
        query_heads=1 if family in STATE_SPACE else positive(fields, "num_attention_heads", name),
        hidden_size=positive(fields, "hidden_size", name),
        intermediate_size=optional(fields, "intermediate_size", name) or 0,
        max_context=max_context,
        weights_bits=_weights_bits(fields),
        notes=(*notes, *ignored),
    )


def _shared(own: Sequence[LayerShape], kinds: Sequence[str], layer: int) -> LayerShape:
    """A layer that reads the keys and values of the last layer of its kind which has its own."""
    alike = [number for number in range(len(own)) if kinds[number] == kinds[layer]]
    return LayerShape(shared_from=alike[-1] if alike else len(own) - 1)


def _layer(fields: Config, name: str, layer: int, kind: str) -> LayerShape:
    if kind in CACHELESS:
        return LayerShape()
    if kind in RECURRENT:
        return _recurrent(fields, name, kind)
    window = None
    if kind in WINDOWED:
        window = optional(fields, "attention_chunk_size" if kind == "chunked_attention" else "sliding_window", name)
    if "kv_lora_rank" in fields:
        rank, rope = positive(fields, "kv_lora_rank", name), positive(fields, "qk_rope_head_dim", name)
        indexed = optional(fields, "index_head_dim", name) or 0
        return LayerShape(kv_heads=1, key_dim=rank, value_dim=rope, window=window, latent=True, plain_dim=indexed)
    found = _heads(fields, name, layer, window)
    if kind == "chunked_attention":
        found = found.model_copy(update={"window": None, "chunk": window})
    return found.model_copy(update={"state_bytes": _recurrent(fields, name, "mamba").state_bytes * (kind == "hybrid")})


def _recurrent(fields: Config, name: str, kind: str) -> LayerShape:
    """The state of a recurrent layer, read from the fields of its family."""
    if kind == "conv":
        taken = optional(fields, "conv_L_cache", name) or 1
        return state_space(conv=taken, inner=positive(fields, "hidden_size", name), state=0)
    if "linear_num_key_heads" in fields:
        return gated_delta_net(
            conv=positive(fields, "linear_conv_kernel_dim", name),
            key_heads=positive(fields, "linear_num_key_heads", name),
            key_dim=positive(fields, "linear_key_head_dim", name),
            values=positive(fields, "linear_num_value_heads", name) * positive(fields, "linear_value_head_dim", name),
        )
    if isinstance(delta := fields.get("linear_attn_config"), Mapping):  # Kimi delta attention (2510.26692)
        heads, dim = positive(delta, "num_heads", name), positive(delta, "head_dim", name)
        conv = positive(delta, "short_conv_kernel_size", name)
        return gated_delta_net(conv=conv, key_heads=heads, key_dim=dim, values=heads * dim)
    if kind == "linear_attention":  # lightning attention (2401.04658): a matrix per head
        dim = _heads(fields, name, 0, None).key_dim
        return state_space(conv=1, inner=positive(fields, "num_attention_heads", name) * dim, state=dim)
    inner = optional(fields, "mamba_d_ssm", name)
    if fields.get("mamba_n_heads") and isinstance(fields.get("mamba_d_head"), int):
        inner = positive(fields, "mamba_n_heads", name) * positive(fields, "mamba_d_head", name)
    expand = optional(fields, "mamba_expand", name) or 2
    return state_space(
        conv=optional(fields, "mamba_d_conv", name) or 4,
        inner=inner or expand * positive(fields, "hidden_size", name),
        state=optional(fields, "mamba_d_state", name) or 16,
        groups=optional(fields, "mamba_n_groups", name) or 0,
    )


def _heads(fields: Config, name: str, layer: int, window: int | None) -> LayerShape:
    """Attention heads. Some families have other heads in layers with a window (`swa_*`) or without (`global_*`)."""
    query_heads = positive(fields, "num_attention_heads", name)
    listed = fields.get("num_key_value_heads")
    if isinstance(listed, list) and layer < len(listed):
        kv_heads = int(listed[layer])
    else:
        kv_heads = optional(fields, "num_key_value_heads", name) or query_heads
        kv_heads = _other_kv_heads(fields, name, windowed=window is not None) or kv_heads
        if query_heads % kv_heads:
            raise ModelError(
                f"{query_heads} query heads of {name} do not divide among {kv_heads} KV heads.",
                "Correct its config.json.",
            )
    if not kv_heads:
        return LayerShape()
    head_dim = optional(fields, "head_dim", name) or positive(fields, "hidden_size", name) // query_heads
    special = optional(fields, "global_head_dim" if window is None else "swa_head_dim", name)
    value_dim = optional(fields, "v_head_dim", name)
    if window is not None:
        value_dim = optional(fields, "swa_v_head_dim", name) or value_dim
    learned = SINKS.get(str(fields.get("model_type")))
    sinks = learned is not None and (not learned or bool(fields.get(learned[window is not None])))
    return LayerShape(
        kv_heads=kv_heads,
        key_dim=special or head_dim,
        value_dim=value_dim or special or head_dim,
        window=window,
        sinks=sinks,
    )


def _other_kv_heads(fields: Config, name: str, *, windowed: bool) -> int | None:
    """KV heads of the layers with a window, or of those without, where they have another number than the rest."""
    if not windowed:  # Gemma 4 has fewer where its values are its keys
        one_projection = fields.get("attention_k_eq_v", True)
        return optional(fields, "num_global_key_value_heads", name) if one_projection else None
    setting = fields.get("attention_other_setting")  # Step 3.5
    if isinstance(setting, Mapping):
        return optional(setting, "num_attention_groups", name)
    return optional(fields, "swa_num_key_value_heads", name)


def _used_windows(
    layers: tuple[LayerShape, ...], family: str, max_context: int | None, *, listed: bool
) -> tuple[tuple[LayerShape, ...], tuple[str, ...]]:
    """The layers with the windows that free memory, and a note where mlx-lm ignores some.

    A window as long as the trained context is none. Windows that mlx-lm does not use are not counted on: the plan errs
    towards more memory. `listed` says whether the file tells layer by layer which have a window.
    """
    real = {layer.reach for layer in layers if layer.reach is not None and layer.reach < (max_context or 1 << 62)}
    used = real if _mlx_lm_uses_windows(family, listed) else set()
    unlimited = {"window": None, "chunk": None}
    kept = tuple(layer if layer.reach in used else layer.model_copy(update=unlimited) for layer in layers)
    if used == real:
        return kept, ()
    sizes = " or ".join(map(str, sorted(real)))
    note = (
        f"a window of {sizes} tokens is declared, but mlx-lm keeps every token of {family} models: all are counted, "
        "and an engine that uses the window holds less"
    )
    return kept, (note,)


@cache
def _mlx_lm_uses_windows(family: str, listed: bool) -> bool:
    """Whether mlx-lm drops tokens outside a family's windows; True for families that it does not have."""
    from mlx_lm.utils import MODEL_REMAPPING

    if family in PLAIN and not listed:
        return False
    name = MODEL_REMAPPING.get(family, family)
    found = []
    for module in (name, name.removesuffix("_text")):
        with suppress(ImportError):
            found.append(vars(importlib.import_module(f"mlx_lm.models.{module}")).keys())
    return not found or any(names & {"RotatingKVCache", "ChunkedKVCache"} for names in found)


def _weights_bits(config: Config) -> float | None:
    """Bits per weight that MLX's own quantized models declare: codes plus a scale and a bias of 16 bit per group."""
    stored: Any = config.get("quantization")
    if not isinstance(stored, Mapping) or not isinstance(stored.get("bits"), int):
        return None
    per_group = 32 if stored.get("mode", "affine") == "affine" else 8
    return float(stored["bits"]) + per_group / int(stored.get("group_size", 64))
