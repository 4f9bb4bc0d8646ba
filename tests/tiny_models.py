"""Small models with random weights, as directories that mlx-lm loads: real code, real tokenizer, no download."""

import json
from pathlib import Path

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


def write_tiny_model(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a model of a family; another seed gives other weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    config = {"model_type": family, **COMMON, **FAMILIES[family]}
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
