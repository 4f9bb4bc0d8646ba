"""Reads the shape of a model's cache from the fields of its config.json. Knows no weights and no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from swarm.experiments.sizing.shape import LayerShape, ModelShape
from swarm.kernels.errors import ModelError

Config = Mapping[str, Any]

# What the families leave out of config.json because it equals the default of their configuration class.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
}


class UnknownFamilyError(ModelError):
    """A config.json whose cache cannot be read from its fields alone."""


def flatten(config: Config) -> dict[str, Any]:
    """The configuration of the language model: what a multi-modal config.json nests under `text_config`."""
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, Mapping) else dict(config)
    if flat.get("model_type") in ("gemma3", "gemma3n", "gemma4", "llama4", "qwen3_5", "qwen3_5_moe"):
        flat["model_type"] += "_text"
    return {**DEFAULTS.get(str(flat.get("model_type")), {}), **{k: v for k, v in flat.items() if v is not None}}


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
    flat = flatten(config)
    family = str(flat.get("model_type", "unknown"))
    known = family in WINDOWS or family in LATENT or family in RECURRENT
    if strict and not known:
        raise UnknownFamilyError(f"the family {family!r} of {name} is not known.", "Give another model.")
    n_layers = _positive(flat, "num_hidden_layers", name)
    shared = int(flat.get("num_kv_shared_layers") or 0)
    own = tuple(_layer(flat, family, name, i) for i in range(max(0, n_layers - shared)))
    layers = own + (LayerShape(kv_heads=0, key_dim=0, value_dim=0),) * (n_layers - len(own))
    notes = () if known else (f"the family {family!r} is not known: read as attention over everything in all layers",)
    return ModelShape(
        name=name,
        family=family,
        layers=layers,
        query_heads=_positive(flat, "num_attention_heads", name),
        hidden_size=_positive(flat, "hidden_size", name),
        intermediate_size=int(flat.get("intermediate_size") or 0),
        max_context=int(flat["max_position_embeddings"]) if flat.get("max_position_embeddings") else None,
        weights_bits=_weights_bits(config),
        notes=notes,
    )


def _positive(config: Config, key: str, name: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{key} of {name} is {value!r}.", "Give the config.json of a language model.")
    return value


def _layer(config: Config, family: str, name: str, layer: int) -> LayerShape:
    if family in RECURRENT and _is_recurrent(config, layer):
        return _recurrent(config, name)
    window = _window(config, family, layer)
    if family in LATENT:
        return _latent(config, name, window)
    given = config.get("kv_heads_per_layer")
    if isinstance(given, list) and layer < len(given):
        return _given_heads(config, name, window, int(given[layer]))
    return _heads(config, name, window)


def _is_recurrent(config: Config, layer: int) -> bool:
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        return str(kinds[layer]) == "linear_attention"
    return (layer + 1) % int(config.get("full_attention_interval") or 4) != 0


def _recurrent(config: Config, name: str) -> LayerShape:
    """A gated delta net (2412.06464): a matrix per head and the inputs of a short convolution, kept in float32."""
    keys = _positive(config, "linear_num_key_heads", name) * _positive(config, "linear_key_head_dim", name)
    values = _positive(config, "linear_num_value_heads", name) * _positive(config, "linear_value_head_dim", name)
    state = values * _positive(config, "linear_key_head_dim", name)
    convolved = (_positive(config, "linear_conv_kernel_dim", name) - 1) * (2 * keys + values)
    return LayerShape(kv_heads=0, key_dim=0, value_dim=0, state_bytes=4 * (state + convolved))


def _heads(config: Config, name: str, window: int | None) -> LayerShape:
    """Plain attention. Gemma 4 has fewer and larger heads in the layers that see everything (`global_*`)."""
    query_heads = _positive(config, "num_attention_heads", name)
    kv_heads = _positive(config, "num_key_value_heads", name) if "num_key_value_heads" in config else query_heads
    if window is None:
        kv_heads = int(config.get("num_global_key_value_heads") or kv_heads)
    if query_heads % kv_heads:
        raise ModelError(
            f"{query_heads} query heads of {name} do not divide among {kv_heads} KV heads.", "Correct its config.json."
        )
    head_dim = _head_dim(config, name, window)
    return LayerShape(kv_heads=kv_heads, key_dim=head_dim, value_dim=head_dim, window=window)


def _given_heads(config: Config, name: str, window: int | None, kv_heads: int) -> LayerShape:
    """A layer of a GGUF file that says the KV heads of each; with none it caches no keys and values."""
    dim = _head_dim(config, name, window) if kv_heads else 0
    return LayerShape(kv_heads=kv_heads, key_dim=dim, value_dim=dim, window=window if kv_heads else None)


def _head_dim(config: Config, name: str, window: int | None) -> int:
    if window is None and config.get("global_head_dim"):
        return int(config["global_head_dim"])
    if "head_dim" in config:
        return _positive(config, "head_dim", name)
    return _positive(config, "hidden_size", name) // _positive(config, "num_attention_heads", name)


def _latent(config: Config, name: str, window: int | None) -> LayerShape:
    rank, rope = _positive(config, "kv_lora_rank", name), _positive(config, "qk_rope_head_dim", name)
    return LayerShape(kv_heads=1, key_dim=rank, value_dim=rope, window=window)


def _weights_bits(config: Config) -> float | None:
    """Bits per weight that MLX's own quantized models declare: codes plus a scale and a bias of 16 bit per group."""
    stored = config.get("quantization")
    if not isinstance(stored, Mapping) or not isinstance(stored.get("bits"), int):
        return None
    per_group = 32 if stored.get("mode", "affine") == "affine" else 8
    return float(stored["bits"]) + per_group / int(stored.get("group_size", 64))


def _window(config: Config, family: str, layer: int) -> int | None:
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and layer < len(kinds):
        kind = str(kinds[layer])
        if kind == "sliding_attention":
            return _optional(config, "sliding_window")
        return _optional(config, "attention_chunk_size") if kind == "chunked_attention" else None
    rule = WINDOWS.get(family)
    return rule(config, layer) if rule else None


def _optional(config: Config, key: str) -> int | None:
    value = config.get(key)
    return int(value) if value else None


def _none(config: Config, layer: int) -> int | None:
    del config, layer
    return None


def _all(config: Config, layer: int) -> int | None:
    del layer
    return _optional(config, "sliding_window")


def _last_of(period: int, key: str = "sliding_window", pattern: str = "sliding_window_pattern") -> _Rule:
    """Full attention in the last layer of every period, a window in the others."""

    def rule(config: Config, layer: int) -> int | None:
        each = int(config.get(pattern) or period)
        return None if (layer + 1) % each == 0 else _optional(config, key)

    return rule


def _from_layer(config: Config, layer: int) -> int | None:
    """Qwen: a window from layer `max_window_layers` on, when `use_sliding_window` says so."""
    uses = bool(config.get("use_sliding_window")) and layer >= int(config.get("max_window_layers") or 0)
    return _optional(config, "sliding_window") if uses else None


_Rule = Callable[[Config, int], int | None]
# The window of layer i, for every family whose layers are plain attention heads.
WINDOWS: dict[str, _Rule] = {
    **dict.fromkeys(("llama", "gemma", "granite", "olmo2", "cohere", "smollm3", "stablelm", "phimoe"), _none),
    **dict.fromkeys(("mistral", "mixtral", "phi3", "starcoder2", "ministral3"), _all),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), _from_layer),
    "gemma2": _last_of(2),
    "gpt_oss": _last_of(2),
    "gemma3_text": _last_of(6),
    "gemma3n_text": _last_of(5),
    "gemma4_text": _last_of(6),
    "cohere2": _last_of(4),
    "llama4_text": _last_of(4, key="attention_chunk_size", pattern="no_rope_layer_interval"),
}
# Families in which most layers are recurrent.
RECURRENT = frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"})
# Families with multi-head latent attention.
LATENT = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2"})
