"""Loads a model directory through mlx-lm, in the float type that suits the device; or builds its modules alone."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.experiments.models.base import WeightsError
from swarm.kernels import blas
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

_NEEDED = "A model directory has config.json, model*.safetensors and tokenizer.json; download it again."
_INSTALL = "Install the package that the line above asks for."


def load_folder(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Model and configuration of an mlx-lm or Hugging Face directory.

    On the CPU floating-point weights become float32, the only type that is fast there, packed weights stay packed, and
    activations are computed by numpy.

    Raises:
        WeightsError: weight files that are missing, cut short or do not fit the configuration.
        ModelError: a model type that mlx-lm does not know, an unreadable configuration or tokenizer.
    """
    from swarm.kernels import elementwise

    blas.use_openblas()
    model, config = read_model(folder)
    _settle(model)
    elementwise.install()
    return model, config


def read_model(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The module tree with its weights mapped but not read yet, and its configuration."""
    from mlx_lm.utils import load_model

    try:
        return load_model(folder, lazy=True)  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is not a complete model directory: {error}.", _NEEDED) from error
    except (RuntimeError, OSError) as error:
        raise WeightsError(f"the weights in {folder} cannot be read: {_first_line(error)}.", _NEEDED) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}.", _NEEDED) from error
    except SystemExit as error:
        raise ModelError(f"{folder} cannot be loaded: mlx-lm's code for it gave up.", _INSTALL) from error


def read_tokenizer(folder: Path, config: dict[str, Any]) -> TokenizerWrapper:
    """The tokenizer of a model directory."""
    from mlx_lm.tokenizer_utils import load

    try:
        return load(folder, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # every tokenizer class raises its own
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}.", _NEEDED) from error


def skeleton(config: dict[str, Any]) -> nn.Module:
    """The module tree of any mlx-lm model from its configuration; parameters have their shapes but no values.

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
    except SystemExit as error:  # of mlx-lm's olmo, without a package that it asks for
        raise ModelError(f"mlx-lm's code for {kind} models gave up.", _INSTALL) from error
    try:
        model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _settle(model: nn.Module) -> None:
    """Read the weights, one by one, so that no more than one exists in two float types at a time."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten

    on_cpu = mx.default_device() == mx.cpu
    packed = {path for path, module in model.named_modules() if "scales" in module}
    waiting = tree_flatten(model.parameters())[::-1]
    while waiting:
        path, array = waiting.pop()  # an original that is still listed would stay in memory
        if on_cpu and mx.issubdtype(array.dtype, mx.floating) and path.rpartition(".")[0] not in packed:
            array = array.astype(mx.float32)
        try:
            mx.eval(array)
        except RuntimeError as error:
            raise WeightsError(f"the weights cannot be read: {_first_line(error)}.", _NEEDED) from error
        model.update(tree_unflatten([(path, array)]), strict=False)
    # The 16-bit originals leave holes in the heap, a third of the model's size.
    release_memory()


def release_memory() -> None:
    """Return freed memory to the system: Python's garbage, MLX's buffers, and holes in glibc's heap."""
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
