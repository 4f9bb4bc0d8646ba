"""The fields of a config.json under one set of names, whatever names, nesting or defaults its family uses.

Files leave out what equals the default of their configuration class; those defaults come from `transformers`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from swarm.kernels.errors import ModelError

Config = Mapping[str, Any]

NESTED = ("text_config", "language_config", "llm_config", "thinker_config", "attn_config", "ffn_config", "ssm_cfg")
# Our name of a field, and the names under which families store the same thing.
ALIASES: dict[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers", "num_transformer_layers"),
    "hidden_size": ("n_embd", "d_model", "model_dim", "dim"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "num_query_heads"),
    "num_key_value_heads": (
        *("num_kv_heads", "n_head_kv", "kv_n_heads", "n_kv_heads", "multi_query_group_num"),
        *("num_attention_groups", "num_key_value_heads_per_layer"),
    ),
    "head_dim": ("kv_channels", "attention_head_dim", "d_kv", "d_head", "head_size", "hidden_size_per_head"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "inner_hidden_size"),
    "max_position_embeddings": (
        *("n_positions", "max_seq_len", "max_sequence_length", "seq_length", "model_max_length"),
        *("max_context_length", "n_ctx"),
    ),
    "sliding_window": ("sliding_window_size", "window_size", "attention_window_size"),
    "layer_types": ("layers_block_type", "block_types", "_block_types", "hybrid_override_pattern"),
    "num_experts": ("num_local_experts", "n_routed_experts", "moe_num_experts", "moe_num_primary_experts"),
    "num_experts_per_tok": (
        *("top_k_experts", "moe_topk", "moe_top_k", "num_experts_per_token", "moe_k"),
        "moe_num_active_primary_experts",
    ),
    "moe_intermediate_size": ("expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    "vocab_size": ("padded_vocab_size",),
    "mamba_n_heads": ("mamba_num_heads",),
    "mamba_d_head": ("mamba_head_dim",),
    "mamba_d_state": ("ssm_state_size", "state_size", "mamba_state_dim"),
    "mamba_d_conv": ("conv_kernel",),
    "mamba_n_groups": ("n_groups",),
    "mamba_expand": ("expand",),
}
# What is never filled in from defaults: a file that says its context length without them has none.
NOT_DEFAULTED = frozenset({"rope_scaling", "rope_parameters", "original_max_position_embeddings", "attention_k_eq_v"})
# Rope scaling that is already in `max_position_embeddings`, or that does not lengthen the window.
NOT_LENGTHENING = frozenset({"default", "mrope", "llama3", "longrope", "su"})
ALREADY_LENGTHENED = ("gemma3", "gemma4")


def complete(config: Config) -> dict[str, Any]:
    """The configuration of the language model: nested parts merged, other names added under ours, defaults filled in.

    What the file says wins over defaults; fields that are null count as left out.
    """
    flat = flatten(config)
    stated = _keys(config) | NOT_DEFAULTED
    # Defaults may be nested where the file is flat.
    defaults = flatten(_defaults(flat))
    flat = flatten(
        {**{key: value for key, value in defaults.items() if key not in stated and key not in NESTED}, **flat}
    )
    if flat.get("model_type") in ("falcon", "gpt_bigcode") and not flat.get("new_decoder_architecture"):
        # Falcon: one KV head for all queries, unless `multi_query` is off; `num_kv_heads` counts in newer ones alone.
        flat["num_key_value_heads"] = 1 if flat.get("multi_query", True) else flat.get("num_attention_heads")
    return flat


def flatten(config: Config) -> dict[str, Any]:
    """The top level with what is nested in it for the language model, other names added under ours, null left out."""
    flat = {key: value for key, value in config.items() if value is not None}
    for name in NESTED:
        part = flat.get(name)
        if isinstance(part, Mapping):
            flat |= flatten(part)
    if flat.get("model_type") in ("gemma3", "gemma3n", "gemma4", "llama4", "qwen3_5", "qwen3_5_moe"):
        flat["model_type"] += "_text"
    for ours, names in ALIASES.items():
        for name in names:
            if ours not in flat and flat.get(name) is not None:
                flat[ours] = flat[name]
    return flat


def positive(fields: Config, key: str, name: str) -> int:
    """A whole number above 0; of a list with one entry per layer the largest.

    Raises:
        ModelError: it is missing or something else.
    """
    value = fields.get(key)
    if isinstance(value, list) and value and all(isinstance(entry, int) for entry in value):
        value = max(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"{key} of {name} is {value!r}.", "Give the config.json of a language model.")
    return value


def optional(fields: Config, key: str, name: str) -> int | None:
    """A whole number above 0, or None where the field is left out, null, 0 or false.

    Raises:
        ModelError: it is something else.
    """
    return positive(fields, key, name) if fields.get(key) else None


def trained_window(fields: Config, name: str) -> int | None:
    """Tokens of context that the model was trained or extended to; None when the file does not say.

    Rope factors (linear, dynamic, yarn) lengthen `max_position_embeddings`, unless that is the lengthened one already.

    Raises:
        ModelError: a number makes no sense.
    """
    stated = optional(fields, "max_position_embeddings", name)
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    if isinstance(rope, Mapping):
        rope = rope.get("full_attention", rope)  # one entry per kind of layer
    if stated is None or not isinstance(rope, Mapping):
        return stated
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    factor = rope.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or kind in NOT_LENGTHENING:
        return stated
    if str(fields.get("model_type")).startswith(ALREADY_LENGTHENED):
        return stated
    original = rope.get("original_max_position_embeddings") or fields.get("original_max_position_embeddings")
    trained = original if isinstance(original, int) and not isinstance(original, bool) else stated
    return max(stated, int(trained * factor))


def _defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What the family's configuration class in `transformers` says about fields that the file leaves out."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is missing is no news here
    from transformers import AutoConfig

    with _silent():
        family = str(flat.get("model_type", ""))
        given = {key: value for key, value in flat.items() if key != "model_type"}
        try:
            full = AutoConfig.for_model(family, **given)
            return dict(full.to_dict())
        except Exception:
            # Unknown there, or refused by its own checks: the file alone is what we have.
            return {}


def _keys(config: Config) -> set[str]:
    """The fields that a file has, null or not, nested ones included."""
    nested = (config[name] for name in NESTED if isinstance(config.get(name), Mapping))
    return set(config).union(*(_keys(part) for part in nested))


@contextmanager
def _silent() -> Iterator[None]:
    """Keep warnings of `transformers` about odd fields off the screen."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
