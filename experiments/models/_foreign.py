"""Facts about models that are not bundled, read from their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.experiments.models import _digest, _hub, _introspect, _load
from swarm.experiments.models.base import ModelInfo
from swarm.kernels import blas

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper


def describe(name: str, known: str) -> ModelInfo:
    """Facts about a local directory or a Hugging Face id; of an id only small files are downloaded.

    Raises:
        UnknownNameError: no such directory; `known` lists the bundled models.
        ModelError: it cannot be fetched, read or traced.
    """
    blas.use_openblas()
    folder = _hub.fetch(name, weights=False) if _hub.is_id(name) else _hub.directory(name, known)
    if any(folder.glob("model*.safetensors")):
        model, config = _load.read_model(folder)
        return facts(name, folder, model, _load.read_tokenizer(folder, config), config)
    from swarm.experiments.models._skeleton import read_config, skeleton

    config = read_config(folder)
    model = skeleton(config)
    info = _introspect.inspect(model, config, name, bos=begins(_load.read_tokenizer(folder, config)))
    return info.model_copy(update={"available": False})


def facts(name: str, folder: Path, model: nn.Module, tokenizer: TokenizerWrapper, config: dict[str, Any]) -> ModelInfo:
    """Facts about a model whose weights are mapped or loaded, with their digest."""
    digest = _digest.of_folder(folder)
    return _introspect.inspect(model, config, name, bos=begins(tokenizer), digest=digest)


def begins(tokenizer: TokenizerWrapper) -> bool:
    """Whether the tokenizer itself puts a beginning-of-sequence token before a text."""
    ids = tokenizer.encode("a")
    return len(ids) > 1 and ids[0] == tokenizer.bos_token_id
