"""Families with routed experts whose layers have plain keys and values."""

from __future__ import annotations

from typing import Any

from families.dense import GRANITE

CONFIGS: dict[str, dict[str, Any]] = {
    family: {} for family in ("Klear", "deepseek", "dots1", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "solar_open")
} | {
    "bailing_moe": {"num_hidden_layers": 3, "topk_group": 1},
    "dbrx": {
        "d_model": 128,
        "n_layers": 2,
        "n_heads": 4,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
    "glm4_moe": {"rope_scaling": None},
    "granitemoe": GRANITE,
    # Every second layer takes the keys and values of the layer before it.
    "hunyuan": {
        "num_hidden_layers": 4,
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"},
    },
    "minimax": {"rotary_dim": 16},
    "phimoe": {
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0] * 16,
            "short_factor": [1.0] * 16,
            "long_mscale": 1.1,
            "short_mscale": 1.1,
        },
    },
    "phixtral": {"num_vocab": 160, "model_dim": 128, "num_heads": 4, "num_layers": 2, "rotary_dim": 16},
}
