"""Reads the shape of a model's cache from the metadata of its GGUF file, as llama.cpp's converters write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.experiments.sizing.config import PERIODS, used_windows
from swarm.experiments.sizing.fields import optional, positive, trained_window
from swarm.experiments.sizing.shape import LayerShape, ModelShape, gated_delta_net, state_space

# Architectures of GGUF whose name is not the model_type of config.json.
FAMILIES = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "deepseek2": "deepseek_v3",
    "gpt-oss": "gpt_oss",
    "llama4": "llama4_text",
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
    "falcon-h1": "falcon_h1",
    "nemotron_h_moe": "nemotron_h",
    "kimi-linear": "kimi_linear",
    "phi2": "phi",
    "minimax-m2": "minimax_m2",
    "ernie4_5-moe": "ernie4_5_moe",
    "seed_oss": "seed_oss",
}
GATED_DELTA_NETS = frozenset({"qwen3next", "qwen35", "qwen35moe"})
RECURRENT_PERIOD = 4
LLAMA4_CHUNK = 8192


def read(metadata: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of the model that the key-value pairs of a GGUF file describe; weights are not counted.

    Blocks that only predict further tokens (`nextn_predict_layers`) are not run by the model and cache nothing.

    Raises:
        ModelError: fields that are needed are missing or make no sense.
    """
    architecture = str(metadata.get("general.architecture", "unknown"))
    prefix = f"{architecture}."
    fields = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    family = FAMILIES.get(architecture, architecture)
    n_layers = positive(fields, "block_count", name) - (optional(fields, "nextn_predict_layers", name) or 0)
    shared = optional(fields, "attention.shared_kv_layers", name) or 0
    own = tuple(_layer(fields, architecture, family, name, i) for i in range(max(0, n_layers - shared)))
    max_context = trained_window(_rope(fields, family), name)
    # llama.cpp's converters write a window where the model has one in some layers, so it is known which.
    layers, notes = used_windows(own, family, max_context, listed="attention.sliding_window_pattern" in fields)
    return ModelShape(
        name=name,
        family=family,
        layers=layers + (LayerShape(kv_heads=0, key_dim=0, value_dim=0),) * (n_layers - len(own)),
        query_heads=optional(fields, "attention.head_count", name) or 1,
        hidden_size=positive(fields, "embedding_length", name),
        intermediate_size=optional(fields, "feed_forward_length", name) or 0,
        max_context=max_context,
        shared_layers=n_layers - len(own),
        notes=notes,
    )


def routing(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How many experts there are and how many a token uses, under the names of config.json."""
    architecture = metadata.get("general.architecture")
    names = {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
    return {ours: metadata.get(f"{architecture}.{theirs}") for ours, theirs in names.items()}


def _rope(fields: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The context length and what lengthens it, under the names of config.json."""
    return {
        "model_type": family,
        "max_position_embeddings": fields.get("context_length"),
        "original_max_position_embeddings": fields.get("rope.scaling.original_context_length"),
        "rope_scaling": {"type": fields.get("rope.scaling.type"), "factor": fields.get("rope.scaling.factor")},
    }


def _of_layer(fields: Mapping[str, Any], key: str, layer: int) -> Any:
    """A field that may be a list with one entry per layer."""
    value = fields.get(key)
    if isinstance(value, list):
        return value[layer] if layer < len(value) else None
    return value


def _layer(fields: Mapping[str, Any], architecture: str, family: str, name: str, layer: int) -> LayerShape:
    recurrent = _recurrent(fields, architecture, name, layer)
    here = {
        key: _of_layer(fields, f"attention.{key}", layer)
        for key in ("head_count", "head_count_kv", "key_length", "value_length", "kv_lora_rank")
    }
    heads = here["head_count_kv"] if here["head_count_kv"] is not None else here["head_count"]
    if not heads:
        return recurrent or LayerShape(kv_heads=0, key_dim=0, value_dim=0)
    if recurrent is not None and architecture != "falcon-h1":
        return recurrent
    window = _window(fields, family, name, layer)
    if here["kv_lora_rank"]:
        rope = positive(fields, "rope.dimension_count", name)
        return LayerShape(kv_heads=1, key_dim=int(here["kv_lora_rank"]), value_dim=rope, window=window)
    if window is not None:
        here |= {
            key: fields[f"attention.{key}_swa"]
            for key in ("key_length", "value_length")
            if f"attention.{key}_swa" in fields
        }
    whole = positive(fields, "embedding_length", name) // max(1, int(here["head_count"] or heads))
    return LayerShape(
        kv_heads=int(heads),
        key_dim=int(here["key_length"] or whole),
        value_dim=int(here["value_length"] or here["key_length"] or whole),
        window=window,
        state_bytes=recurrent.state_bytes if recurrent is not None else 0,
    )


def _recurrent(fields: Mapping[str, Any], architecture: str, name: str, layer: int) -> LayerShape | None:
    """The recurrent state of a layer; None where it has none."""
    listed = fields.get("attention.recurrent_layers")
    each = fields.get("full_attention_interval")
    if isinstance(listed, list):
        flags = len(listed) > layer and all(isinstance(entry, bool) for entry in listed)
        is_recurrent = bool(listed[layer]) if flags else layer in listed
    elif each or architecture in GATED_DELTA_NETS:
        is_recurrent = (layer + 1) % int(each or RECURRENT_PERIOD) != 0
    else:
        is_recurrent = architecture == "falcon-h1" or not _of_layer(fields, "attention.head_count_kv", layer)
    if not is_recurrent:
        return None
    if "shortconv.l_cache" in fields:
        taken = positive(fields, "shortconv.l_cache", name)
        return state_space(conv=taken, inner=positive(fields, "embedding_length", name), state=0)
    if "ssm.inner_size" not in fields or _is_feed_forward(fields, layer):
        return None
    sizes = {key: positive(fields, f"ssm.{key}", name) for key in ("conv_kernel", "inner_size", "state_size")}
    groups = optional(fields, "ssm.group_count", name) or 0
    if architecture in GATED_DELTA_NETS:
        return gated_delta_net(
            conv=sizes["conv_kernel"], key_heads=groups, key_dim=sizes["state_size"], values=sizes["inner_size"]
        )
    return state_space(conv=sizes["conv_kernel"], inner=sizes["inner_size"], state=sizes["state_size"], groups=groups)


def _is_feed_forward(fields: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer is nothing but a feed-forward network (Nemotron-H lists a width of 0 for all the others)."""
    widths = fields.get("feed_forward_length")
    return isinstance(widths, list) and 0 in widths and layer < len(widths) and widths[layer] > 0


def _window(fields: Mapping[str, Any], family: str, name: str, layer: int) -> int | None:
    """The window of a layer: by a list, by every how many layers one sees everything, or by the family's habit."""
    chunk = optional(fields, "attention.chunk_size", name)
    if family == "llama4_text":
        chunk = chunk or LLAMA4_CHUNK
    size = chunk or optional(fields, "attention.sliding_window", name)
    pattern = fields.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return size if layer < len(pattern) and pattern[layer] else None
    each = int(pattern) if pattern else PERIODS.get(family)
    return None if each and (layer + 1) % each == 0 else size
