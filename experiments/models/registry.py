"""Finds models by name: a bundled one, a directory, or a Hugging Face id."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.experiments import bounded
from swarm.experiments.models import conversion_cache, digest, hub, introspect, loading
from swarm.experiments.models.base import PACKAGE, BundledModel, LoadedModel, ModelInfo, Progress
from swarm.kernels import blas, plugins
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

DEFAULT_GROUP = "models"
UNKNOWN_CONTEXT = 1 << 24
"""Longest context of a GGUF file that does not say one."""


def bundled() -> dict[str, type[BundledModel]]:
    """The bundled models by registry name, small ones first."""
    found = plugins.load_all(PACKAGE, BundledModel).values()  # type: ignore[type-abstract]
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
        return conversion_cache.converted(models[name], progress or _silent)
    if hub.is_id(name):
        return hub.fetch(name, weights=True)
    return hub.directory(name, ", ".join(models))


def gguf(name: str, progress: Progress | None = None) -> Path | None:
    """The GGUF file of a bundled model, or of a path that ends in .gguf; None where a model has none.

    Raises:
        WeightsError: weights that are missing, truncated or altered.
        CacheError: the disk is full or not writable.
        ModelError: there is no such file.
    """
    models = bundled()
    if name in models:
        return conversion_cache.gguf(models[name], progress or _silent)
    if not name.endswith(".gguf"):
        return None
    path = Path(name).expanduser()
    if not path.is_file():
        raise ModelError(f"there is no file {name}.", "Give the path of a GGUF file.")
    return path


def weight_bytes(name: str) -> int:
    """Bytes of a model's weight files; 0 for those of a Hugging Face id that are not on this machine.

    Raises:
        UnknownNameError, ModelError: there is no such model.
    """
    models = bundled()
    if name in models:
        return sum(part.size for part in models[name].parts)
    file = gguf(name)
    if file is not None:
        return file.stat().st_size
    folder = hub.downloaded(name) if hub.is_id(name) else hub.directory(name, ", ".join(models))
    return sum(file.stat().st_size for file in folder.glob("model*.safetensors")) if folder else 0


def describe(name: str) -> ModelInfo:
    """Facts about a model by name. Reads no weights of a bundled model and downloads none of any model.

    Of a Hugging Face id only small files are downloaded.

    Raises:
        as `ensure` does; also ModelError for a model whose layers cannot be traced.
    """
    models = bundled()
    if name in models:
        return _bundled_info(models[name])
    file = gguf(name)
    if file is not None:
        return _facts_of_gguf(name, file)
    blas.use_openblas()
    folder = hub.fetch(name, weights=False) if hub.is_id(name) else hub.directory(name, ", ".join(models))
    if any(folder.glob("model*.safetensors")):
        model, config = loading.read_model(folder)
        return _facts(name, folder, model, loading.read_tokenizer(folder, config), config)
    config = loading.read_config(folder)
    facts = bounded.call(f"{__name__}:facts_without_weights", str(folder), config, name, what=name)
    return ModelInfo.model_validate(facts).model_copy(update={"available": False})


def facts_without_weights(folder: str, config: dict[str, Any], name: str) -> dict[str, Any]:
    """Facts about a model of which there are a configuration and a tokenizer only, as data that JSON can hold.

    Raises:
        ModelError: mlx-lm cannot build it, or its layers cannot be traced.
    """
    model = loading.skeleton(config)
    bos = _begins(loading.read_tokenizer(Path(folder), config))
    return introspect.inspect(model, config, name, bos=bos).model_dump(mode="json")


def load(name: str, progress: Progress | None = None) -> LoadedModel:
    """A model in memory, in float32 on the CPU; puts a fast BLAS in force if MLX is not imported yet.

    Raises:
        as `ensure` does.
    """
    models = bundled()
    folder = ensure(name, progress)
    model, config = loading.load_folder(folder)
    read_tokenizer = partial(loading.read_tokenizer, folder, config)
    info = _bundled_info(models[name]) if name in models else _facts(name, folder, model, read_tokenizer(), config)
    return LoadedModel(model, info, read_tokenizer, partial(digest.of_tokenizer, folder))


def check(name: str) -> None:
    """Read the files of a bundled model that was converted before; one that was not has nothing to check.

    Raises:
        WeightsError: weights that are missing, truncated or altered.
    """
    model = bundled()[name]
    folder = conversion_cache.folder_of(model)
    if folder.exists():
        conversion_cache.verify(folder, model.digest)


def _bundled_info(model: type[BundledModel]) -> ModelInfo:
    present = conversion_cache.folder_of(model).is_dir() or conversion_cache.installed(model)
    return model.info().model_copy(update={"available": present})


def _facts_of_gguf(name: str, file: Path) -> ModelInfo:
    """Facts about a file that only engines read, from its metadata."""
    from swarm.experiments.sizing import files

    shape = files.read(file)
    return ModelInfo(
        name=name,
        family=shape.family,
        digest=digest.of_weights([file]),
        layers=shape.layers,
        n_heads=shape.query_heads,
        scales=(None,) * len(shape.layers),
        scale_kind="fixed",
        key_bias=False,
        vocab_size=1,
        max_context=shape.max_context or UNKNOWN_CONTEXT,
        available=True,
    )


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""


def _facts(name: str, folder: Path, model: nn.Module, tokenizer: TokenizerWrapper, config: dict[str, Any]) -> ModelInfo:
    """Facts about a model whose weights are mapped or loaded, with their digest."""
    return introspect.inspect(model, config, name, bos=_begins(tokenizer), digest=digest.of_folder(folder))


def _begins(tokenizer: TokenizerWrapper) -> bool:
    """Whether the tokenizer itself puts a beginning-of-sequence token before a text."""
    ids = tokenizer.encode("a")
    return len(ids) > 1 and ids[0] == tokenizer.bos_token_id
