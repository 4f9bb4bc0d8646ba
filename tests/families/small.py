"""Small values for the arguments that mlx-lm's families share, by the name of the argument."""

from __future__ import annotations

from typing import Any

LAYERS = 4
WINDOW = 8
"""Tokens of every window and chunk, so that short texts cross several."""

SMALL: dict[str, Any] = {
    # Sizes.
    "vocab_size": 160,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    # Norms and rotary embedding.
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    # Yes or no.
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_qk_norm": True,
    "tie_word_embeddings": False,
    # Experts.
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_intermediate_size": 64,
    "shared_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    # Latent attention.
    "kv_lora_rank": 64,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "index_head_dim": 32,
    "index_n_heads": 2,
    # Recurrent layers and convolutions.
    "conv_L_cache": 3,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}

SLIDING = "sliding_attention"
FULL = "full_attention"
LINEAR = "linear_attention"

PATTERN: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "sliding_window": WINDOW,
    "sliding_window_pattern": 2,
}
"""For models whose layers differ; also what a family gets that nobody has written a configuration for."""
