"""Builds the modules of any mlx-lm model from its configuration, without weights: MLX arrays stay unevaluated."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.kernels import blas
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.nn as nn


def skeleton(config: dict[str, Any]) -> nn.Module:
    """The module tree of a configuration; parameters have their shapes but no values.

    Raises:
        ModelError: a model type that mlx-lm does not know, or a configuration that it refuses.
    """
    blas.use_openblas()  # a conversion ends here before anything else imports MLX
    from mlx_lm.utils import MODEL_REMAPPING

    kind = str(config.get("model_type", ""))
    try:
        module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(kind, kind)}")
    except ImportError as error:
        raise ModelError(f"model type {kind!r} is not supported by mlx-lm.", "Choose another model.") from error
    try:
        model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"the configuration of this {kind} model is incomplete: {error}.", "Repair it.") from error
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model directory.

    Raises:
        ModelError: it is missing or not readable.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", "Download the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a model configuration.", "Download the model again.")
    return config
