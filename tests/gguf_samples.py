"""Small GGUF files as llama.cpp's converter writes them, and packages that carry them and must not be imported."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tiny_models import write_tiny_model

from swarm.experiments.models.base import BundledModel, ModelInfo, Part

FAMILIES = {"llama": "llama", "gemma3": "gemma3_text", "qwen2": "qwen2"}


def write_sample(folder: Path, architecture: str, kind: str = "F32", seed: int = 0, **tokenizer: Any) -> Path:
    """A GGUF file with the weights of a tiny model (left in `folder`/origin) in one ggml type.

    The file follows llama.cpp: rotary rows of the Llama family interleaved, Gemma's norm weights plus one.
    """
    import gguf
    import mlx.core as mx

    origin = write_tiny_model(folder / "origin", FAMILIES[architecture], seed)
    config = json.loads((origin / "config.json").read_text())
    weights = {name: np.array(value) for name, value in mx.load(str(origin / "model.safetensors")).items()}
    if config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    path = folder / f"{architecture}-{kind}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_key_length(config.get("head_dim", width // heads))
    writer.add_sliding_window(config.get("sliding_window", 0))
    _write_tokenizer(writer, config["vocab_size"], **tokenizer)
    table = gguf.get_tensor_name_map(
        {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture], config["num_hidden_layers"]
    )
    for name, value in weights.items():
        stored = _as_stored(value, name, architecture, config)
        quantize = kind not in ("F32",) and value.ndim > 1
        raw = gguf.GGMLQuantizationType[kind if quantize else "F32"]
        data = gguf.quants.quantize(stored, raw) if quantize else stored
        writer.add_tensor(table.get_name(name, try_suffixes=(".weight", ".bias")), data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_stored(value: np.ndarray, name: str, architecture: str, config: dict[str, Any]) -> np.ndarray:
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return value + 1
    for layer, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if architecture == "llama" and f".{layer}." in name:
            halves = value.reshape(config[heads], 2, -1, *value.shape[1:])
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
    return value


def _write_tokenizer(
    writer: Any, size: int, model: str = "gpt2", pre: str = "gpt-2", merges: Sequence[str] = ("a b",)
) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<bos>", "<eos>", *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    tokens += [f"<unused{index}>" for index in range(size - len(tokens))]
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *([1] * 256), *([1] * len(merges)), *([5] * (size - 258 - len(merges)))])
    writer.add_token_merges(list(merges))
    writer.add_token_scores([0.0] * size)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


class SampleModel(BundledModel):
    """A bundled model whose packages are made by `install`."""

    name = "sample"
    group = "samples"
    license = "none"
    digest: ClassVar[str] = ""
    parts: ClassVar[tuple[Part, ...]] = ()

    @classmethod
    def info(cls) -> ModelInfo:
        raise NotImplementedError


def install(site: Path, gguf_file: Path, pieces: int = 2) -> type[SampleModel]:
    """Packages in the directory `site` (to be put on sys.path), each with a piece of the file and code that fails."""
    data = gguf_file.read_bytes()
    step = -(-len(data) // pieces)
    parts = []
    for index in range(pieces):
        piece = data[index * step : (index + 1) * step]
        package, distribution = site / f"sample_part{index}", f"sample-part{index}"
        metadata = site / f"sample_part{index}-1.0.dist-info"
        package.mkdir(parents=True)
        metadata.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('the package was imported')\n")
        (package / "weights.bin").write_bytes(piece)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        digest = hashlib.sha256(piece).hexdigest()
        parts.append(Part(distribution, "1.0", f"sample_part{index}/weights.bin", len(piece), digest))
    return type("InstalledSample", (SampleModel,), {"parts": tuple(parts)})
