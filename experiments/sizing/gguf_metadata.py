"""Reads the metadata of GGUF files, as llama.cpp's converters write it, as the fields of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from swarm.experiments.sizing import layer_kinds
from swarm.experiments.sizing.fields import optional, positive

# Architectures of GGUF whose name is not the model_type of config.json, but for `-` in the place of `_`.
FAMILIES = {
    "gptoss": "gpt_oss",  # Ollama's own
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "deepseek2": "deepseek_v3",
    "llama4": "llama4_text",
    "mistral3": "ministral3",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "command-r": "cohere",
    "qwen3next": "qwen3_next",
    "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text",
    "glm4moe": "glm4_moe",
    "mimo2": "mimo_v2_flash",
    "granitehybrid": "granitemoehybrid",
    "gptneox": "gpt_neox",
    "lfm2moe": "lfm2_moe",
    "nemotron_h_moe": "nemotron_h",
    "phi2": "phi",
    "step35": "step3p5",
}
# Fields of config.json, and the keys of GGUF that hold the same.
KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "v_head_dim": "attention.value_length",
    "swa_head_dim": "attention.key_length_swa",
    "swa_v_head_dim": "attention.value_length_swa",
    "sliding_window": "attention.sliding_window",
    "sliding_window_pattern": "attention.sliding_window_pattern",
    "attention_chunk_size": "attention.chunk_size",
    "num_kv_shared_layers": "attention.shared_kv_layers",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "index_head_dim": "attention.indexer.key_length",
    "conv_L_cache": "shortconv.l_cache",
    "mamba_d_conv": "ssm.conv_kernel",
    "mamba_d_ssm": "ssm.inner_size",
    "mamba_d_state": "ssm.state_size",
    "mamba_n_groups": "ssm.group_count",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
}
GATED_DELTA_NETS = frozenset({"qwen3next", "qwen35", "qwen35moe"})
RECURRENT_PERIOD = 4
LLAMA4_CHUNK = 8192


def as_config(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The key-value pairs of a GGUF file as the fields of a config.json.

    Blocks that only predict further tokens (`nextn_predict_layers`) are not run by the model and are left out.

    Raises:
        ModelError: fields that are needed are missing or make no sense.
    """
    architecture = str(metadata.get("general.architecture", "unknown"))
    prefix = f"{architecture}."
    stored = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    fields = {ours: stored[theirs] for ours, theirs in KEYS.items() if theirs in stored}
    family = FAMILIES.get(architecture, architecture.replace("-", "_"))
    if family == "olmo2" and "sliding_window" in fields:
        family = "olmo3"
    fields["model_type"] = family
    fields["num_hidden_layers"] = positive(stored, "block_count", name) - (
        optional(stored, "nextn_predict_layers", name) or 0
    )
    fields["rope_scaling"] = {"type": stored.get("rope.scaling.type"), "factor": stored.get("rope.scaling.factor")}
    if family == "llama4_text":
        fields.setdefault("attention_chunk_size", LLAMA4_CHUNK)
    if np.max(fields.get("num_key_value_heads", 0)) != 1:
        fields.pop("kv_lora_rank", None)  # files older than latent caches: llama.cpp keeps all their heads
    if not np.any(fields.get("num_attention_heads")):
        fields["num_attention_heads"] = 1
    fields |= _states(stored, architecture, name)
    kinds = [_kind(stored, architecture, fields, i) for i in range(fields["num_hidden_layers"])]
    familiar = family in layer_kinds.PLAIN or family in layer_kinds.PATTERNS
    if isinstance(fields.get("sliding_window_pattern"), list) or set(kinds) != {"full_attention"} or not familiar:
        fields["layer_types"] = kinds
    return fields


def _states(stored: Mapping[str, Any], architecture: str, name: str) -> dict[str, int]:
    """The sizes of recurrent states that GGUF has under names of its own; all value heads count as one."""
    if "wkv.head_size" in stored:  # RWKV: a matrix per head, and the last inputs of each block
        shifts = optional(stored, "token_shift_count", name) or 2
        return {"mamba_expand": 1, "mamba_d_state": stored["wkv.head_size"], "mamba_d_conv": shifts + 1}
    if "kda.head_dim" in stored:
        heads, dim = positive(stored, "attention.head_count", name), positive(stored, "kda.head_dim", name)
        sizes = [heads, dim, heads * dim]
    elif architecture in GATED_DELTA_NETS:
        keys = ("ssm.group_count", "ssm.state_size", "ssm.inner_size")
        sizes = [positive(stored, key, name) for key in keys]
    else:
        return {}
    names = ("linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim")
    conv = positive(stored, "ssm.conv_kernel", name)
    return {**dict(zip(names, sizes, strict=True)), "linear_num_value_heads": 1, "linear_conv_kernel_dim": conv}


def _kind(stored: Mapping[str, Any], architecture: str, fields: Mapping[str, Any], layer: int) -> str:
    """What a layer is, in the words of `layer_types`."""
    heads = _of_layer(stored, "attention.head_count_kv", layer)
    attends = bool(_of_layer(stored, "attention.head_count", layer) if heads is None else heads)
    has_state = not {"shortconv.l_cache", "ssm.inner_size", "kda.head_dim", "wkv.head_size"}.isdisjoint(stored)
    if architecture == "falcon-h1":
        return "hybrid"
    if has_state and _is_recurrent(stored, architecture, layer, attends=attends):
        widths = stored.get("feed_forward_length")
        if isinstance(widths, list) and 0 in widths and widths[layer]:  # Nemotron-H: a width of 0 for all but these
            return "mlp"
        return "conv" if "shortconv.l_cache" in stored else "mamba"
    if not attends:
        return "mlp"
    pattern = fields.get("sliding_window_pattern")
    if isinstance(pattern, list) and layer < len(pattern) and pattern[layer]:
        return "chunked_attention" if "attention_chunk_size" in fields else "sliding_attention"
    return "full_attention"


def _of_layer(stored: Mapping[str, Any], key: str, layer: int) -> Any:
    """A field that may be a list with one entry per layer."""
    value = stored.get(key)
    if isinstance(value, list):
        return value[layer] if layer < len(value) else None
    return value


def _is_recurrent(stored: Mapping[str, Any], architecture: str, layer: int, *, attends: bool) -> bool:
    listed = stored.get("attention.recurrent_layers")
    each = stored.get("full_attention_interval") or (RECURRENT_PERIOD if architecture in GATED_DELTA_NETS else 0)
    if isinstance(listed, list):
        flags = any(isinstance(entry, bool) for entry in listed)
        return bool(listed[layer]) if flags else layer in listed
    return (layer + 1) % int(each) != 0 if each else not attends
