"""What each layer of a model is (attention, a window, a recurrence, ...), by its config.json and its family."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.experiments.sizing.fields import Config

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
# Every how many layers one is attention and the others are recurrent.
RECURRENT_PERIODS = dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), 4)
WINDOWS_OF_LLAMA4 = ("no_rope_layer_interval", "chunked_attention")

FULL = frozenset({"full_attention", "attention", "global_attention", "global", "full", "*", "hybrid"})
WINDOWED = frozenset({"sliding_attention", "local_attention", "local", "sliding", "chunked_attention"})
RECURRENT = frozenset({"linear_attention", "mamba", "mamba2", "M", "m", "conv"})
# Fields that tell the sizes of linear attention.
LINEAR = frozenset({"linear_num_key_heads", "linear_attn_config", "attn_type_list"})
CACHELESS = frozenset({"mlp", "moe", "-", "E"})


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
