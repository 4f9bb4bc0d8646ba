"""Small models with random weights, as directories that mlx-lm loads: real code, real tokenizer, no download."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2": {"num_key_value_heads": 1, "tie_word_embeddings": False},
    "gemma3_text": {"head_dim": 32, "num_key_value_heads": 1, "sliding_window": 48, "sliding_window_pattern": 2},
    "qwen3": {"head_dim": 64, "num_key_value_heads": 2, "tie_word_embeddings": True},
}
COMMON = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-6,
    "vocab_size": 288,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}


MIXED = {
    # Llama 3.1: rotary scaling of its own; 70B's eight query heads per KV head.
    "llama": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 64, "tie_word_embeddings": False,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 64}},
    # Windowed and global layers with heads of different sizes, the last two reading another layer's keys and values.
    "gemma4_text": {"head_dim": 32, "global_head_dim": 64, "num_key_value_heads": 2, "sliding_window": 24,
                    "layer_types": ["sliding_attention", "full_attention"] * 3, "num_hidden_layers": 6,
                    "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 0},
    # Three recurrent layers to one of attention, and experts.
    "qwen3_next": {"head_dim": 64, "num_key_value_heads": 2, "num_hidden_layers": 8, "linear_num_value_heads": 4,
                   "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
                   "linear_conv_kernel_dim": 4, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
                   "shared_expert_intermediate_size": 64, "mlp_only_layers": [], "moe_intermediate_size": 64,
                   "partial_rotary_factor": 0.5, "norm_topk_prob": True},
    "qwen3": FAMILIES["qwen3"],
    # A latent of 64 values and a rotary part of 32.
    "deepseek_v3": {"num_key_value_heads": 4, "moe_intermediate_size": 64, "kv_lora_rank": 64, "q_lora_rank": None,
                    "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 4,
                    "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
                    "first_k_dense_replace": 1},
}  # fmt: skip
"""Families of which people run large models, made small: what each layer keeps is as it is there."""


def write_tiny_model(folder: Path, family: str, seed: int = 0, given: Mapping[str, Any] | None = None) -> Path:
    """Write a model of a family, of a configuration or that in `FAMILIES`; another seed gives other weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    config = {"model_type": family, **COMMON, **(FAMILIES[family] if given is None else given)}
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    rng = np.random.default_rng(seed)
    weights = {}
    for name, value in tree_flatten(model.parameters()):
        spread = 0.3 if value.ndim == 1 else 2.0 / np.sqrt(value.shape[-1])
        weights[name] = mx.array(rng.normal(scale=spread, size=value.shape).astype(np.float32))
        if "norm" in name and family != "gemma3_text":
            weights[name] += 1
    if family == "gemma3_text":
        weights.pop("lm_head.weight", None)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<bos>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
