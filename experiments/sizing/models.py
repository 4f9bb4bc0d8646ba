"""Finds the shape of a model by name: a file, what other programs downloaded, or the bundled table `shapes/*.toml`."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from swarm.experiments.sizing import config, files, naming
from swarm.experiments.sizing.downloaded import Reference, hub_snapshot, ollama_blob
from swarm.experiments.sizing.fields import flatten
from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import ModelError, UnknownNameError


@cache
def table() -> dict[str, ModelShape]:
    """The bundled shapes by name; a model that goes by several names appears under each."""
    found: dict[str, ModelShape] = {}
    for entry in resources.files(__package__).joinpath("shapes").iterdir():
        if entry.name.endswith(".toml"):
            for row in tomllib.loads(entry.read_text(encoding="utf-8"))["model"]:
                shape = _shape(row)
                found |= dict.fromkeys((row["id"], *row.get("names", ())), shape)
    return dict(sorted(found.items()))


def _shape(row: dict[str, Any]) -> ModelShape:
    fields = row["config"]
    total = int(row["parameters"])
    tied = fields.get("tie_word_embeddings", fields["model_type"].startswith("gemma"))
    looked_up = 0 if tied else fields["vocab_size"] * fields["hidden_size"]
    counted = {"parameters": total, "active_parameters": row.get("active_parameters", total - looked_up)}
    return config.of_fields(flatten(fields), row["id"]).model_copy(update={**counted, "source": "bundled table"})


def find(name: str) -> ModelShape:
    """The shape of a model.

    Args:
        name: a path (config.json, model directory, GGUF, a blob of Ollama), a Hugging Face id, a name of Ollama
            (`llama3.1:latest`, `hf.co/user/repo:Q4_K_M`), or a name as people write it.

    Raises:
        UnknownNameError: no such model, with the nearest names.
        ModelError: several models go by that name, or its files cannot be read.
    """
    path = Path(name).expanduser()
    if name and _exists(path):
        return files.read(path).model_copy(update={"source": str(path)})
    if path.suffix.lower() in (".json", ".gguf") or name.startswith((".", "/", "~")):
        raise ModelError(f"there is no file {name}.", "Check the path.")
    reference = Reference.parse(name)
    for downloaded, where in (
        (hub_snapshot(reference), "local Hugging Face cache"),
        (ollama_blob(reference), "Ollama"),
    ):
        if downloaded is not None:
            return files.read(downloaded).model_copy(update={"name": name, "source": where})
    found = naming.matches(reference.plain, table())
    shapes = {shape.name: shape for shape in found.values()}
    if len(shapes) > 1:
        raise ModelError(f"{name!r} can be several models: {', '.join(sorted(shapes))}.", "Say which.")
    if not shapes:
        near = ", ".join(naming.nearest(name, table()))
        if reference.hub_id is not None:
            fetch = "Nothing is fetched for a plan: "
            fetch += f"`hf download {reference.hub_id} config.json` first, or plan with {near}."
            raise ModelError(f"{name} is neither in the bundled table nor in the local Hugging Face cache.", fetch)
        raise UnknownNameError("model", name, f"{near}, ... or the path of a config.json, model directory or GGUF file")
    return next(iter(shapes.values()))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
