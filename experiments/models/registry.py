"""Finds models by name: a bundled one, a directory, or a Hugging Face id."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from swarm.experiments.models import _hub, _parts, _store
from swarm.experiments.models.base import PACKAGE, BundledModel, LoadedModel, ModelInfo, Progress
from swarm.kernels import plugins

DEFAULT_GROUP = "models"


def bundled() -> dict[str, type[BundledModel]]:
    """The bundled models by registry name, small ones first."""
    names = [name for name in plugins.names(PACKAGE) if name != __name__.rpartition(".")[2]]
    found = [plugins.load(PACKAGE, BundledModel, name) for name in names]  # type: ignore[type-abstract]
    return {model.name: model for model in sorted(found, key=lambda model: sum(part.size for part in model.parts))}


def catalogue() -> list[ModelInfo]:
    """Every bundled model with its facts and whether it is on this machine. Reads no weights and imports no MLX."""
    return [_bundled_info(model) for model in bundled().values()]


def default_models() -> list[str]:
    """Names of the models of the default dependency group that are on this machine.

    Models of optional groups run when they are asked for: what a plain launch does must not depend on them.
    """
    return [info.name for info in catalogue() if info.available and bundled()[info.name].group == DEFAULT_GROUP]


def ensure(name: str, progress: Progress | None = None) -> Path:
    """The directory of a model that mlx-lm can load: converted or downloaded if needed.

    Args:
        name: a bundled model, a local directory, or a Hugging Face id.
        progress: told about every step of a conversion.

    Raises:
        UnknownNameError: the name is none of these.
        WeightsError: weights that are missing, truncated or altered.
        CacheError: the disk is full or not writable.
        ModelError: a directory that is no model, or a Hugging Face id that cannot be fetched.
    """
    models = bundled()
    if name in models:
        return _store.converted(models[name], progress or _silent)
    if _hub.is_id(name):
        return _hub.fetch(name, weights=True)
    return _hub.directory(name, ", ".join(models))


def describe(name: str) -> ModelInfo:
    """Facts about a model by name. Reads no weights of a bundled model and downloads none of any model.

    Raises:
        as `ensure` does.
    """
    models = bundled()
    if name in models:
        return _bundled_info(models[name])
    from swarm.experiments.models import _foreign

    return _foreign.describe(name, ", ".join(models))


def load(name: str, progress: Progress | None = None) -> LoadedModel:
    """A model in memory, in float32 on the CPU; puts a fast BLAS in force if MLX is not imported yet.

    Raises:
        as `ensure` does.
    """
    from swarm.experiments.models import _digest, _foreign, _load

    models = bundled()
    folder = ensure(name, progress)
    model, config = _load.load_folder(folder)
    read_tokenizer = partial(_load.read_tokenizer, folder, config)
    if name in models:
        info = _bundled_info(models[name])
    else:
        info = _foreign.facts(name, folder, model, read_tokenizer(), config)
    return LoadedModel(model, info, read_tokenizer, partial(_digest.of_tokenizer, folder))


def check(name: str) -> None:
    """Read the files of a bundled model that was converted before; one that was not has nothing to check.

    Raises:
        WeightsError: weights that are missing, truncated or altered.
    """
    model = bundled()[name]
    folder = _store.folder_of(model)
    if folder.exists():
        _store.verify(folder, model.digest)


def _bundled_info(model: type[BundledModel]) -> ModelInfo:
    present = _store.folder_of(model).is_dir() or _parts.installed(model)
    return model.info().model_copy(update={"available": present})


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""
