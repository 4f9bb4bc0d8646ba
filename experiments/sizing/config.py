"""Reads the shape of a model's cache from the fields of its config.json, without its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from swarm.experiments.sizing.fields import Config, complete, optional, positive, trained_window
from swarm.experiments.sizing.shape import ModelShape, gated_delta_net, state_space
from swarm.kernels.errors import ModelError
from swarm.kernels.layer_shape import LayerShape

# Families of plain attention: one kind of layer, or windows by the rules below.
PLAIN = frozenset(
    {"llama", "gemma", "granite", "granitemoe", "olmo", "olmo2", "olmoe", "cohere", "smollm3", "stablelm", "phimoe"}
    | {"mistral", "mixtral", "phi", "phi3", "starcoder2", "ministral3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}
    | {"glm4_moe", "glm", "glm4", "dbrx", "falcon", "gpt2", "gpt_neox", "gpt_bigcode", "gptj", "nemotron", "seed_oss"}
    | {"bitnet", "internlm2", "dots1", "ernie4_5", "ernie4_5_moe", "minimax", "minimax_m2", "apertus", "helium"}
)
# Which layers see everything (G) and which have a window (L), again and again. Used where the file does not list them.
PATTERNS = {
    "gemma2": "LG",
    "gpt_oss": "LG",
    "gemma3_text": "LLLLLG",
    "gemma3n_text": "LLLLG",
    "gemma4_text": "LLLLLG",
    "cohere2": "LLLG",
    "llama4_text": "LLLG",
    "exaone4": "LLLG",
    "olmo3": "LLLG",
    "smallthinker": "GLLL",
}
# Fields with a flag per layer, and what a layer is without and with it.
FLAGS = {
    "hybrid_layer_pattern": ("full_attention", "sliding_attention"),
    "sliding_window_layout": ("full_attention", "sliding_attention"),
    "attn_type_list": ("linear_attention", "full_attention"),
}
# Fields with the numbers of the layers that attend, and what the others are.
ATTENDING = {"full_attn_idxs": "conv", "attn_layer_indices": "mamba"}
# Multi-head latent attention.
LATENT = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"})
# Recurrent in every layer.
STATE_SPACE = frozenset({"mamba", "mamba2", "falcon_mamba"})
# Feed-forward networks of two matrices.
UNGATED = frozenset({"falcon", "gpt2", "gpt_neox", "gpt_bigcode", "gptj", "bloom", "mpt", "opt", "phi", "starcoder2"})
# Every how many layers one is attention and the others are recurrent.
RECURRENT_PERIODS = dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), 4)

# Families whose softmax has a learned extra logit per head: in all layers, or by a flag for full and windowed ones.
SINKS: Mapping[str, tuple[str, ...]] = {
    "gpt_oss": (),
    "mimo_v2_flash": ("add_full_attention_sink_bias", "add_swa_attention_sink_bias"),
}

WINDOWS_OF_LLAMA4 = ("no_rope_layer_interval", "chunked_attention")

FULL = frozenset({"full_attention", "attention", "global_attention", "global", "full", "*", "hybrid"})
WINDOWED = frozenset({"sliding_attention", "local_attention", "local", "sliding", "chunked_attention"})
RECURRENT = frozenset({"linear_attention", "mamba", "mamba2", "M", "m", "conv"})
# Fields that tell the sizes of linear attention.
LINEAR = frozenset({"linear_num_key_heads", "linear_attn_config", "attn_type_list"})
CACHELESS = frozenset({"mlp", "moe", "-", "E"})


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


def estimated_weights(fields: Config, name: str) -> tuple[int, int]:
    """Weights of a transformer of these sizes, and those that one token reads, where the model cannot be built.

    Counted are embeddings, attention and feed-forward matrices (three where the family gates them, else two) with
    their experts; norms, biases and routers are left out.

    Raises:
        ModelError: fields that are needed are missing or make no sense.
    """
    hidden, n_layers = positive(fields, "hidden_size", name), positive(fields, "num_hidden_layers", name)
    heads = optional(fields, "num_attention_heads", name) or 1
    kv_heads = optional(fields, "num_key_value_heads", name) or heads
    head_dim = optional(fields, "head_dim", name) or hidden // heads
    inner = optional(fields, "intermediate_size", name) or 4 * hidden
    matrices = 2 if fields.get("model_type") in UNGATED else 3
    experts = optional(fields, "num_experts", name) or 1
    routed = optional(fields, "num_experts_per_tok", name) or experts
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    feed_forward = matrices * hidden * (optional(fields, "moe_intermediate_size", name) or inner)
    if fields.get("model_type") in STATE_SPACE:  # two projections into the inner channels and one out of them
        attention, feed_forward = 3 * hidden * hidden * (optional(fields, "mamba_expand", name) or 2), 0
    embedding = hidden * (optional(fields, "vocab_size", name) or 0)
    tables = 1 if fields.get("tie_word_embeddings") else 2
    total = n_layers * (attention + experts * feed_forward) + tables * embedding
    return total, n_layers * (attention + min(routed, experts) * feed_forward) + embedding


def layer_kinds(fields: Config, family: str, n_layers: int) -> list[str] | None:
    """What each layer is, in the words of `layer_types`; None where neither the file nor the family tells."""
    if family in LATENT and "kv_lora_rank" in fields:
        return ["full_attention"] * n_layers
    if family in STATE_SPACE:
        return ["mamba"] * n_layers
    for key, pair in FLAGS.items():
        flags = fields.get(key)
        if isinstance(flags, list) and len(flags) >= n_layers:
            return [pair[bool(flag)] for flag in flags[:n_layers]]
    for key, other in ATTENDING.items():
        if isinstance(fields.get(key), list):
            return ["full_attention" if i in fields[key] else other for i in range(n_layers)]
    listed = fields.get("layer_types")
    if isinstance(listed, str):
        listed = list(listed)  # a letter per layer
    if isinstance(listed, Sequence) and listed:
        pattern = [str(kind) for kind in listed]
        found = [pattern[i % len(pattern)] for i in range(n_layers)]
        told = LINEAR & fields.keys() or "linear_attention" not in found
        return found if told and set(found) <= FULL | WINDOWED | RECURRENT | CACHELESS else None
    if fields.get("attn_layer_period"):
        period, offset = int(fields["attn_layer_period"]), int(fields.get("attn_layer_offset") or 0)
        return ["attention" if i % period == offset else "mamba" for i in range(n_layers)]
    if family == "falcon_h1":
        return ["hybrid"] * n_layers
    if family in RECURRENT_PERIODS:
        each = int(fields.get("full_attention_interval") or RECURRENT_PERIODS[family])
        return ["linear_attention" if (i + 1) % each else "full_attention" for i in range(n_layers)]
    if family in PATTERNS:
        key, local = WINDOWS_OF_LLAMA4 if family == "llama4_text" else ("sliding_window_pattern", "sliding_attention")
        given = fields.get(key) or PATTERNS[family]
        letters = given if isinstance(given, str) else "L" * (int(given) - 1) + "G"
        return ["full_attention" if letters[i % len(letters)] == "G" else local for i in range(n_layers)]
    if family in PLAIN:
        return [_plain(fields, family, i) for i in range(n_layers)]
    return None


def _plain(fields: Config, family: str, layer: int) -> str:
    """Qwen has a window from layer `max_window_layers` on, if `use_sliding_window` says so; others where one is set."""
    if not fields.get("sliding_window"):
        return "full_attention"
    if family.startswith("qwen"):
        uses = bool(fields.get("use_sliding_window")) and layer >= int(fields.get("max_window_layers") or 0)
        return "sliding_attention" if uses else "full_attention"
    return "sliding_attention"


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
