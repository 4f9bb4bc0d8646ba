"""Finds models by name: a bundled one, a directory, or a Hugging Face id."""

from __future__ import annotations

from pathlib import Path

from swarm.experiments.models import _parts, _store
from swarm.experiments.models.base import PACKAGE, BundledModel, LoadedModel, ModelInfo, Progress
from swarm.kernels import plugins
from swarm.kernels.errors import UnknownNameError


def bundled() -> dict[str, type[BundledModel]]:
    """The bundled models by registry name, small ones first."""
    names = [name for name in plugins.names(PACKAGE) if name != __name__.rpartition(".")[2]]
    found = [plugins.load(PACKAGE, BundledModel, name) for name in names]  # type: ignore[type-abstract]
    return {model.name: model for model in sorted(found, key=lambda model: sum(part.size for part in model.parts))}


def catalogue() -> list[ModelInfo]:
    """Every bundled model with its facts and whether it is on this machine. Reads no weights and imports no MLX."""
    return [_bundled_info(model) for model in bundled().values()]


def default_models() -> list[str]:
    """Names of the bundled models that are on this machine."""
    return [info.name for info in catalogue() if info.available]


def ensure(name: str, progress: Progress | None = None) -> Path:
    """The directory of a model that mlx-lm can load, made or downloaded if needed, and verified.

    Raises:
        UnknownNameError: neither a bundled model, nor a directory, nor a Hugging Face id.
        WeightsError: weights that are missing, truncated or altered.
        CacheError: the disk is full or not writable.
        ModelError: a Hugging Face id that cannot be fetched.
    """
    model = bundled().get(name)
    if model is not None:
        return _store.converted(model, progress or _silent)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    raise UnknownNameError("model", name, ", ".join(bundled()))


def describe(name: str) -> ModelInfo:
    """Facts of a model by name; reads the weights of no bundled model.

    Raises:
        as `ensure` does.
    """
    model = bundled().get(name)
    return _bundled_info(model) if model is not None else load(name).info


def load(name: str, progress: Progress | None = None) -> LoadedModel:
    """A model in memory: see `ensure` for names and errors."""
    from swarm.experiments.models import _introspect, _load

    model = bundled().get(name)
    network, tokenizer, config = _load.load_folder(ensure(name, progress))
    if model is not None:
        return LoadedModel(network, tokenizer, _bundled_info(model))
    return LoadedModel(network, tokenizer, _introspect.inspect(network, config, name, bos=False))


def _bundled_info(model: type[BundledModel]) -> ModelInfo:
    present = _store.folder_of(model).is_dir() or _parts.installed(model)
    return model.info().model_copy(update={"available": present})


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""
