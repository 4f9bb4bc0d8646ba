"""A small random model of every family of the installed mlx-lm, with what is particular to it kept."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from families import dense, experts, hybrid, latent, windows
from families.small import PATTERN, SMALL

from swarm.experiments.models.loading import skeleton
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn

WRITTEN: dict[str, dict[str, Any]] = {
    **dense.CONFIGS,
    **experts.CONFIGS,
    **windows.CONFIGS,
    **latent.CONFIGS,
    **hybrid.CONFIGS,
}
"""By family: what differs from the small values of `families.small`."""

TEXT_MODELS = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "kimi_k25": "deepseek_v3",
    "kimi_vl": "deepseek_v3",
    "lfm2-vl": "lfm2",
    "mistral3": "ministral3",
    "pixtral": "llama",
    "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Families of models with images, with the family whose arguments their text model has."""

# mlx-lm's olmo ends the process unless this package is there, of which it uses nothing.
sys.modules.setdefault("hf_olmo", types.ModuleType("hf_olmo"))


@functools.cache
def families() -> list[str]:
    """Every module of the installed mlx-lm that has a model, sorted."""
    import mlx_lm.models

    names = sorted(module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__))
    return [name for name in names if "Model" in vars(importlib.import_module(f"mlx_lm.models.{name}"))]


def config(family: str) -> dict[str, Any]:
    """The configuration of a family's small model, as its config.json would hold it.

    A family without a written one gets the small values and a pattern of layers, each where it has such an argument.
    """
    if family in TEXT_MODELS:
        return {**SMALL, "model_type": family, "text_config": config(TEXT_MODELS[family])}
    given = {**SMALL, **WRITTEN.get(family, {**PATTERN, "text_config": PATTERN}), "model_type": family}
    if "text_config" in given:
        given["text_config"] = {**SMALL, "model_type": family, **given["text_config"]}
    return given


@functools.cache
def build(family: str, seed: int = 0) -> nn.Module:
    """A family's small model with random weights; the same object for the same arguments, so leave it as it is.

    Raises:
        ModelError: the family has no written configuration and the small values do not suit it.
    """
    import mlx.core as mx
    from families import metal_only
    from mlx.utils import tree_flatten, tree_unflatten

    metal_only.install(family)
    mx.random.seed(seed)  # first values of some parameters are random
    try:
        model = skeleton(config(family))
    except ModelError as error:
        raise ModelError(
            f"tests/families cannot make a small {family} model: {error}",
            f"Write a configuration of {family} into the file of its kind under tests/families.",
        ) from error
    rng = np.random.default_rng(seed)
    weights = [(name, _random(name, value, rng)) for name, value in tree_flatten(model.parameters())]
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())
    return model


def text(batch: int, length: int, seed: int = 0) -> mx.array:
    """Random tokens that every family knows, batch x length."""
    import mlx.core as mx

    return mx.array(np.random.default_rng(seed).integers(0, SMALL["vocab_size"], (batch, length)))


def logits(model: nn.Module, cache: list[Any], tokens: mx.array, chunks: list[int]) -> np.ndarray:
    """The logits of `text`'s tokens, batch x length x vocabulary, with the tokens fed in chunks of these sizes."""
    import mlx.core as mx

    parts, start = [], 0
    for size in chunks:
        part = model(tokens[:, start : start + size], cache=cache)[..., : SMALL["vocab_size"]].astype(mx.float32)
        parts.append(np.array(part))
        start += size
    assert start == tokens.shape[1]
    return np.concatenate(parts, axis=1)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Without mx.compile, which on the CPU runs a C++ compiler for every small function of every family."""
    import mlx.core as mx

    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def _random(name: str, start: mx.array, rng: np.random.Generator) -> mx.array:
    """Random values for a parameter, of the kind that its name and its first values tell."""
    import mlx.core as mx

    if not mx.issubdtype(start.dtype, mx.floating):  # packed codes
        codes = rng.integers(0, 256, (*start.shape, start.dtype.size), dtype=np.uint8)
        return mx.array(codes).view(start.dtype).squeeze(-1)
    last = name.rpartition(".")[2]
    noise = rng.standard_normal(start.shape, dtype=np.float32)
    if "sink" in last:
        values = noise
    elif last == "weight_scale":  # of packed codes of -1, 0 and 1
        values = 0.1 + 0.01 * noise
    elif last == "weight" and start.ndim > 1:
        values = noise * (1.5 / np.sqrt(np.prod(start.shape[1:]) if "conv" in name else start.shape[-1]))
    else:
        values = np.array(start.astype(mx.float32)) + 0.2 * noise
    return mx.array(values)
