"""Families in which layers, or parts of them, keep a recurrent state or the inputs of a convolution."""

from __future__ import annotations

from typing import Any

from families.dense import GRANITE
from families.small import FULL, LAYERS, LINEAR, WINDOW

_EVERY_SECOND = {"num_hidden_layers": LAYERS, "layer_types": [LINEAR, FULL, LINEAR, FULL]}
_CONV = {"num_hidden_layers": LAYERS, "layer_types": ["conv", FULL, "conv", FULL], "conv_bias": True}
_BAILING = {"num_hidden_layers": LAYERS, "layer_group_size": 2, "group_norm_size": 2}
# Layer numbers start at one there.
_DELTA = {
    "linear_attn_config": {
        "kda_layers": [1, 3],
        "full_attn_layers": [2, 4],
        "num_heads": 4,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
    },
    "num_hidden_layers": LAYERS,
    "num_experts_per_token": 2,
}
_QWEN = {"num_hidden_layers": LAYERS, "full_attention_interval": 2}
_ROPE = {"rope_parameters": {"type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
_MAMBA = {
    "state_size": 16,
    "conv_kernel": 4,
    "intermediate_size": 128,
    "use_conv_bias": True,
    "time_step_rank": 8,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "baichuan_m1": {
        "num_hidden_layers": LAYERS,
        "sliding_window": WINDOW,
        "sliding_window_layers": [1, 3],
        "conv_window": 2,
        "num_swa_attention_heads": 2,
        "num_swa_key_value_heads": 1,
    },
    "bailing_hybrid": _BAILING,
    "bailing_moe_linear": _BAILING,
    "bailing_moe_v3": {**_BAILING, "short_conv_kernel_size": 4},
    "falcon_h1": {
        "mamba_d_ssm": 128,
        "mamba_d_head": 32,
        "mamba_n_heads": 4,
        "attention_out_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "key_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
    },
    "granitemoehybrid": {
        **GRANITE,
        "num_hidden_layers": LAYERS,
        "layer_types": ["mamba", "attention", "mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_proj_bias": False,
        "mamba_n_groups": 2,
        "mamba_conv_bias": True,
    },
    "jamba": {
        "num_hidden_layers": LAYERS,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_expand": 2,
    },
    "kimi_k3": {"text_config": {**_DELTA, "activation_situ_beta": 4.0, "attn_res_block_size": 2}},
    "kimi_linear": {**_DELTA, "model_max_length": 512},
    "lfm2": {
        **_CONV,
        "block_dim": 128,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {**_CONV, "use_expert_bias": True},
    # All four kinds of layers: recurrent, attention, dense, experts.
    "nemotron_h": {
        "num_hidden_layers": 6,
        "hybrid_override_pattern": ["M", "*", "-", "M", "*", "E"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "mamba_proj_bias": False,
        "ssm_state_size": 16,
        "conv_kernel": 4,
        "n_groups": 2,
        "use_conv_bias": True,
    },
    "olmo_hybrid": {**_EVERY_SECOND, "linear_allow_neg_eigval": True},
    "plamo2": {"num_hidden_layers": LAYERS, "hidden_size_per_head": 32, "mamba_num_heads": 4, "mamba_step": 2},
    "qwen3_5": {"text_config": {**_QWEN, **_ROPE, "num_experts": 0}},
    "qwen3_5_moe": {"text_config": {**_QWEN, **_ROPE}},
    # A model of four packed matrices; the rotation of its inputs is in blocks of 512 values or none.
    "prism_hadamard_qwen35": {
        "text_config": {**_QWEN, **_ROPE, "num_experts": 0},
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {"path": f"model.layers.1.self_attn.{name}_proj", "block": 0, "embedding": False, "dtype": "float16"}
            for name in "qkvo"
        ],
    },
    "qwen3_next": _QWEN,
    "recurrent_gemma": {
        "num_hidden_layers": LAYERS,
        "conv1d_width": 4,
        "logits_soft_cap": 10.0,
        "attention_window_size": WINDOW,
        "block_types": ["recurrent", "attention"],
    },
    # No layer at all that keeps keys and values.
    "mamba": _MAMBA,
    "mamba2": {**_MAMBA, "num_heads": 4, "n_groups": 2, "time_step_limit": (0.0, 100.0)},
    "rwkv7": {"a_low_rank_dim": 16, "v_low_rank_dim": 16, "gate_low_rank_dim": 16, "decay_low_rank_dim": 16},
}
