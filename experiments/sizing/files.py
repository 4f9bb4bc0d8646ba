"""Reads model shapes from files: a config.json, a directory with weights, a GGUF file. Knows no bundled table."""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

from swarm.experiments.sizing import built, config
from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import ModelError

# Architectures of GGUF whose name is not the model_type of config.json.
ARCHITECTURES = (
    {"gemma3": "gemma3_text", "gemma3n": "gemma3n_text", "gemma4": "gemma4_text", "deepseek2": "deepseek_v3"}
    | {"gpt-oss": "gpt_oss", "llama4": "llama4_text", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
    | {"command-r": "cohere", "qwen3next": "qwen3_next"}
)
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
WEIGHTS_SUFFIX = ".safetensors"


def read(path: Path) -> ModelShape:
    """The shape of the model in a file or directory.

    Raises:
        ModelError: there is no model, or it cannot be read.
    """
    if path.is_dir():
        return _directory(path)
    if path.suffix.lower() == ".gguf":
        return _gguf(path)
    return of_config(_json(path), path.parent.name or path.stem)


def of_config(fields: dict[str, Any], name: str) -> ModelShape:
    """The shape of a config.json.

    Read from its fields where the family is known here; otherwise off the model that mlx-lm builds from it; otherwise
    as attention over everything in every layer, with a note. Weights are counted by building the model.
    """
    try:
        shape = config.read(fields, name)
    except config.UnknownFamilyError:
        try:
            return built.read(fields, name)
        except (ModelError, ImportError):
            return config.read(fields, name, strict=False)
    try:
        parameters, active = built.count(fields)
    except (ModelError, ImportError) as error:
        note = f"the weights are not counted ({error})"
        return shape.model_copy(update={"notes": (*shape.notes, note)})
    return shape.model_copy(update={"parameters": parameters, "active_parameters": active})


def _directory(path: Path) -> ModelShape:
    ggufs = sorted(path.glob("*.gguf"))
    if not (path / "config.json").is_file():
        if len(ggufs) == 1 or (ggufs and SPLIT.search(ggufs[0].name)):
            return _gguf(ggufs[0])
        raise ModelError(f"no config.json in {path}.", "Give the directory of a model, its config.json or a GGUF file.")
    shape = of_config(_json(path / "config.json"), path.name)
    size = sum(file.stat().st_size for file in path.glob(f"*{WEIGHTS_SUFFIX}"))
    return shape.model_copy(update={"weight_bytes": size or None})


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}.", "Give the config.json of a model, or a GGUF file.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object.", "Give the config.json of a model.")
    return content


def _gguf(path: Path) -> ModelShape:
    """The shape of a GGUF file, of all its parts when it is split; weights are counted from its tensors."""
    import gguf

    from swarm.experiments.models._gguf import GGUFFile

    metadata: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    stored = 0
    for part in _parts(path):
        with GGUFFile(part) as file:
            metadata = metadata or file.metadata
            for name, entry in file.tensors.items():
                block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(entry.kind)]
                sizes[name] = prod(entry.shape)
                stored += sizes[name] // block * size
    fields = config_of_gguf(metadata, sizes)
    shape = config.read(fields, str(metadata.get("general.name", path.stem)), strict=False)
    counted = {
        "parameters": sum(sizes.values()),
        "active_parameters": built.active(sizes, fields),
        "weight_bytes": stored,
    }
    return shape.model_copy(update=counted)


def _parts(path: Path) -> list[Path]:
    split = SPLIT.search(path.name)
    if split is None:
        return [path]
    count = int(split[2])
    stem = path.name[: split.start()]
    parts = [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelError(f"{len(missing)} of {count} parts of {path.name} are missing: {missing[0]}.", "Get all parts.")
    return parts


def config_of_gguf(metadata: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """The fields of config.json that the metadata of a GGUF file stands for.

    Args:
        metadata: its key-value pairs.
        sizes: values in each tensor, by name.
    """
    family = str(metadata.get("general.architecture", "unknown"))

    def field(key: str) -> Any:
        value = metadata.get(f"{family}.{key}")
        return max(value, default=None) if isinstance(value, list) else value

    n_layers = field("block_count")
    kv_heads = metadata.get(f"{family}.attention.head_count_kv")
    local_dim = field("attention.key_length_swa")
    latent = field("attention.kv_lora_rank")
    fields = {
        "model_type": ARCHITECTURES.get(family, family),
        "num_hidden_layers": n_layers,
        "hidden_size": field("embedding_length"),
        "intermediate_size": field("feed_forward_length"),
        "num_attention_heads": field("attention.head_count"),
        "num_key_value_heads": None if latent else field("attention.head_count_kv"),
        "kv_heads_per_layer": kv_heads if isinstance(kv_heads, list) and not latent else None,
        "head_dim": local_dim or field("attention.key_length"),
        "global_head_dim": field("attention.key_length") if local_dim else None,
        "max_position_embeddings": field("context_length"),
        "sliding_window": field("attention.sliding_window"),
        "attention_chunk_size": field("attention.chunk_size"),
        "num_kv_shared_layers": field("attention.shared_kv_layers"),
        "kv_lora_rank": latent,
        "qk_rope_head_dim": field("rope.dimension_count"),
        "num_local_experts": field("expert_count"),
        "num_experts_per_tok": field("expert_used_count"),
        "tie_word_embeddings": "output.weight" not in sizes,
    }
    pattern = metadata.get(f"{family}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        fields["layer_types"] = ["sliding_attention" if local else "full_attention" for local in pattern]
    if fields["model_type"] == "llama4_text":
        fields["attention_chunk_size"] = fields["attention_chunk_size"] or 8192
    return {key: value for key, value in fields.items() if value is not None}
