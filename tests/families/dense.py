"""Families whose layers are all alike and have plain keys and values, without experts."""

from __future__ import annotations

from typing import Any

_GPT = {"num_key_value_heads": 4, "n_embd": 128, "n_head": 4, "n_layer": 2, "n_positions": 512, "n_ctx": 512}
_GRANITE = {
    "logits_scaling": 2.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 4.0,
    "residual_multiplier": 0.8,
}

GRANITE = _GRANITE

CONFIGS: dict[str, dict[str, Any]] = {
    family: {}
    for family in (
        "bitnet",
        "glm",
        "helium",
        "hunyuan_v1_dense",
        "internlm2",
        "internlm3",
        "llama",
        "mimo",
        "nanochat",
        "olmo2",
        "phi",
        "qwen2",
        "qwen3",
        "seed_oss",
        "starcoder2",
        "talkie",
        "telechat3",
    )
} | {
    "apertus": {"post_norm": False, "qk_norm": True},
    "cohere": {"layer_norm_bias": True, "logit_scale": 0.25},
    "ernie4_5": {"use_bias": True},
    "exaone": {"num_layers": 2},
    "gemma": {"head_dim": 64},
    # Caps low enough to bend most scores.
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 10.0, "query_pre_attn_scalar": 32.0},
    "glm4": {"attention_bias": True},
    "gpt2": _GPT,
    "gpt_bigcode": {**_GPT, "n_inner": 96},
    "gpt_neox": {"num_key_value_heads": 4, "rotary_emb_base": 10000, "rotary_pct": 0.25},
    "gptj": {**_GPT, "rotary_dim": 16},
    "granite": _GRANITE,
    # The layers run twice, the second time beside a window of the second run's own keys.
    "iquestloopcoder": {"loop_window_size": 8},
    "lille-130m": {"block_size": 512, "n_embd": 128, "n_head": 4, "n_kv_heads": 2, "n_layer": 2},
    "minicpm": {"dim_model_base": 64, "scale_depth": 1.4, "scale_emb": 4.0},
    "nanbeige": {"num_loops": 2},
    "nemotron": {"hidden_act": "relu2"},
    # Layers without attention keep nothing and have no cache.
    "nemotron-nas": {
        "num_hidden_layers": 4,
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
            {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 1.0}},
        ],
    },
    "olmo": {"d_model": 128, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 192, "embedding_size": 160},
    "openelm": {
        "num_transformer_layers": 2,
        "model_dim": 128,
        "ffn_dim_divisor": 32,
        "num_query_heads": [4, 8],
        "num_kv_heads": [2, 4],
        "ffn_multipliers": [0.5, 1.0],
    },
    "phi3": {"partial_rotary_factor": 1.0},
    # Its blocks of keys are at least 32 tokens long; every second layer sees them all. The tokens that it forbids have
    # fixed numbers, so its vocabulary cannot be small.
    "phi3small": {
        "vocab_size": 100352,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "ff_intermediate_size": 96,
        "gegelu_limit": 20.0,
        "dense_attention_every_n_layers": 2,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 1,
        "blocksparse_vert_stride": 2,
        "mup_width_multiplier": 1.0,
    },
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 32, "no_bias": True},
    # The fourth layer has no rotary embedding.
    "smollm3": {"num_hidden_layers": 4},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": True},
}
