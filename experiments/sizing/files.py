"""Reads model shapes from files: a config.json, a directory with weights, a GGUF file."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from swarm.experiments.sizing import built, config, gguf_metadata, weights
from swarm.experiments.sizing.downloaded import is_projector
from swarm.experiments.sizing.fields import complete
from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import ModelError

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
WEIGHTS_SUFFIX = ".safetensors"
MAGIC = b"GGUF"
MAX_NAMES = 8


def read(path: Path) -> ModelShape:
    """The shape of the model in a file or directory.

    Raises:
        ModelError: there is no model, or it cannot be read.
    """
    if path.is_dir():
        return _directory(path)
    if path.suffix.lower() == ".gguf" or _starts_as_gguf(path):
        return _gguf(path)
    return of_config(_json(path), path.parent.name or path.stem)


def of_config(given: dict[str, Any], name: str) -> ModelShape:
    """The shape of a config.json.

    Read from its fields where the family is known here; otherwise off the model that mlx-lm builds from it; otherwise
    as attention over everything in every layer, with a note. Weights are counted by building the model.
    """
    fields = complete(given)
    try:
        shape = config.of_fields(fields, name)
    except config.UnknownFamilyError:
        with suppress(ModelError, ImportError):
            return built.read(given, name)
        shape = config.of_fields(fields, name, strict=False)
    try:
        parameters, active = built.count(given)
    except (ModelError, ImportError):
        parameters, active = weights.estimated_weights(fields, name)
        note = "the weights are estimated from the sizes of the layers, as mlx-lm does not know the family"
        shape = shape.model_copy(update={"notes": (*shape.notes, note)})
    return shape.model_copy(update={"parameters": parameters, "active_parameters": active})


def _starts_as_gguf(path: Path) -> bool:
    """Whether a file without the usual ending is GGUF all the same, as the blobs of Ollama are."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _directory(path: Path) -> ModelShape:
    if not (path / "config.json").is_file():
        models = [file for file in sorted(path.glob("*.gguf")) if not is_projector(file)]
        whole = [file for file in models if (split := SPLIT.search(file.name)) is None or int(split[1]) == 1]
        if len(whole) == 1 or (models and not whole):
            return _gguf((whole or models)[0])
        if whole:
            names = ", ".join(file.name for file in whole[:MAX_NAMES])
            raise ModelError(f"{path} holds {len(whole)} models: {names}.", "Give the path of one of them.")
        raise ModelError(f"no config.json in {path}.", "Give the directory of a model, its config.json or a GGUF file.")
    shape = of_config(_json(path / "config.json"), path.name)
    size = sum(file.stat().st_size for file in path.glob(f"*{WEIGHTS_SUFFIX}"))
    return shape.model_copy(update={"weight_bytes": size or None})


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
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

    from swarm.experiments.models.gguf import GGUFFile

    metadata: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    stored = 0
    for part in _parts(path):
        with GGUFFile(part) as file:
            metadata = metadata or file.metadata
            for tensor, entry in file.tensors.items():
                block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(entry.kind)]
                sizes[tensor] = prod(entry.shape)
                stored += sizes[tensor] // block * size
    name = str(metadata.get("general.name", path.stem))
    fields = gguf_metadata.as_config(metadata, name)
    shape = config.of_fields(fields, name)
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
