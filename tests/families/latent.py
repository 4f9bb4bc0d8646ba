"""Families whose layers keep a latent (multi-head latent attention), and those that pick keys with an indexer."""

from __future__ import annotations

from typing import Any

from families.small import LAYERS, WINDOW

_INDEXED = {"index_topk": 8}
_LONGCAT = {
    "num_layers": 2,
    "ffn_hidden_size": 96,
    "expert_ffn_hidden_size": 64,
    "moe_topk": 2,
    "zero_expert_num": 2,
    "zero_expert_type": "identity",
    "attention_method": "MLA",
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}

CONFIGS: dict[str, dict[str, Any]] = {family: {} for family in ("deepseek_v3", "glm4_moe_lite", "youtu_llm")} | {
    "deepseek_v2": {"topk_method": "greedy", "rope_scaling": {"type": "yarn", "factor": 1.0}},
    "deepseek_v32": _INDEXED,
    # Windows of latents, and beside them latents of two tokens each that an indexer picks.
    "deepseek_v41": {
        **_INDEXED,
        "num_hidden_layers": LAYERS,
        "head_dim": 64,
        "o_groups": 2,
        "o_lora_rank": 32,
        "sliding_window": WINDOW,
        "compress_ratios": (0, 2, 2, 2),
        "kv_source_layer_ids": (1, 3),
        "index_source_layer_ids": (1, 3),
        "hc_mult": 2,
        "hc_sinkhorn_iters": 4,
        "rms_norm_eps": 1e-6,
    },
    "glm_moe_dsa": {**_INDEXED, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": {**_LONGCAT, "ngram_vocab_size_ratio": 3, "emb_neighbor_num": 3, "emb_split_num": 2},
    "minicpm3": {
        "dim_model_base": 64,
        "scale_depth": 1.4,
        "scale_emb": 4.0,
        "rope_scaling": {
            "original_max_position_embeddings": 512,
            "short_factor": [1.0] * 16,
            "long_factor": [1.0] * 16,
        },
    },
    # Queries grow with the position from the sixteenth token on.
    "mistral4": {
        "rope_parameters": {
            "type": "default",
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16,
        },
    },
    # Plain keys and values, but the second half of the layers picks blocks of four of them.
    "minimax_m3_vl": {
        "text_config": {
            "num_hidden_layers": LAYERS,
            "dense_intermediate_size": 96,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "sparse_attention_config": {
                "sparse_num_index_heads": 2,
                "sparse_index_dim": 32,
                "sparse_block_size": 4,
                "sparse_topk_blocks": 2,
                "sparse_local_block": 1,
                "sparse_attention_freq": [0, 0, 1, 1],
            },
        },
    },
}
