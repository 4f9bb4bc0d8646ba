"""Families with windows, chunks, learned sinks, or layers that read the keys and values of another layer."""

from __future__ import annotations

from typing import Any

from families.small import FULL, LAYERS, PATTERN, SLIDING, WINDOW

_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
_BY_KIND = {"rope_parameters": {SLIDING: _ROPE, FULL: {**_ROPE, "partial_rotary_factor": 0.5}}}
# Two layers with keys and values of their own, and two that read those of the last of their kind.
_SHARED = {**PATTERN, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 32}
_MUSE = {
    **PATTERN,
    "rope_parameters": _ROPE,
    "layer_rope_theta": [10000.0, 0, 10000.0, 0],
    "post_norm_eps": 1e-5,
    "qk_scale_factor": 1.5,
    "final_logit_softcapping": 20.0,
    "output_multiplier": 0.5,
}

CONFIGS: dict[str, dict[str, Any]] = dict.fromkeys(("afmoe", "cohere2", "gemma3_text", "gpt_oss", "olmo3"), PATTERN) | {
    "afm7": {
        "hidden_dim": 128,
        "num_layers": 4,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "hidden_dim_scale_factor": 1.0,
    },
    "exaone4": {**PATTERN, "sliding_window_pattern": "LG", "rope_scaling": None},
    "exaone_moe": {**PATTERN, "is_moe_layer": [False, True, True, True]},
    "gear": {**PATTERN, "layer_types": [SLIDING, "conv_mixer", FULL, SLIDING], "attn_logit_softcapping": 4.0},
    "gemma3n": {
        "text_config": {
            **_SHARED,
            "rope_local_base_freq": 5000.0,
            "final_logit_softcapping": 10.0,
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
            "altup_num_inputs": 2,
            "altup_coef_clip": 50.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 16,
        },
    },
    # Global layers have one head of twice the size.
    "gemma4_text": {**_SHARED, "global_head_dim": 64, "num_global_key_value_heads": 1, "attention_k_eq_v": True},
    "laguna": {**PATTERN, **_BY_KIND, "num_attention_heads_per_layer": [4, 8, 4, 8]},
    # Every fourth layer sees all, the others chunks.
    "llama4": {
        "text_config": {
            "num_hidden_layers": LAYERS,
            "attention_chunk_size": WINDOW,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 96,
            "num_experts_per_tok": 1,
            "rope_scaling": None,
            "attn_temperature_tuning": 4,
            "floor_scale": 4,
        },
    },
    "llama4_text": {"num_hidden_layers": LAYERS, "no_rope_layers": [1, 1, 1, 0], "intermediate_size_mlp": 96},
    "mellum": {**PATTERN, **_BY_KIND},
    # Keys are wider than values, and both kinds of layers have heads of their own.
    "mimo_v2_flash": {
        "num_hidden_layers": LAYERS,
        "hybrid_layer_pattern": [0, 1, 1, 0],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": True,
        "sliding_window_size": WINDOW,
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 5000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "head_dim": 64,
        "v_head_dim": 32,
        "swa_head_dim": 64,
        "swa_v_head_dim": 32,
        "attention_value_scale": 0.7,
    },
    # Queries grow with the position from the sixteenth token on.
    "ministral3": {
        **PATTERN,
        "rope_parameters": {**_ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16},
    },
    "muse_glimmer": _MUSE,
    "muse_spark": {"text_config": {**_MUSE, "moe_hidden_size": 64, "num_shared_experts": 0}},
    "plamo3": {**PATTERN, "window_size": WINDOW},
    "spark2_5": {**PATTERN, **_BY_KIND},
    "step3p5": {
        **PATTERN,
        "num_attention_groups": 2,
        "attention_other_setting": {"num_attention_heads": 8, "num_attention_groups": 4},
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 64,
        "moe_layers_enum": "2,3",
        "partial_rotary_factors": [1.0, 0.5, 1.0, 0.5],
    },
}
