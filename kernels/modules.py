"""Reads from an mlx-lm model what the packed caches of its layers must be, and refuses what cannot be packed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.errors import ModelError, SpecError
from swarm.kernels.key_bias import KeyBias
from swarm.kernels.quantizers import base

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.kernels.codec import Factors
    from swarm.kernels.spec import KVSpec

_ATTENTION_NAMES = ("self_attn", "attention", "attn", "self_attention")


def attention_modules(model: Any) -> list[Any]:
    """The attention module of every layer of an mlx-lm model.

    Raises:
        ModelError: a layer has none (state-space layers), or the model names its parts in no known way.
    """
    found = []
    for index, layer in enumerate(model.layers):
        own = (getattr(layer, name, None) for name in _ATTENTION_NAMES)
        module = next((candidate for candidate in own if candidate is not None), None)
        if module is None:
            raise ModelError(
                f"Layer {index} of {type(model).__module__} has no attention.",
                "Packed caches work for models whose layers all attend to keys and values.",
            )
        found.append(module)
    return found


def head_dim(module: Any, model: Any = None) -> int | None:
    """The head size of an attention module, None where it does not say."""
    args = getattr(model, "args", None)
    size = getattr(module, "head_dim", None) or getattr(args, "head_dim", None)
    if size is None:
        width, heads = (getattr(args, name, None) for name in ("hidden_size", "num_attention_heads"))
        size = width // heads if width and heads else None
    return None if size is None else int(size)


def key_bias(module: Any) -> KeyBias:
    """The RoPE-aware key bias of an attention module.

    Raises:
        SpecError: its keys have no bias, or it is no longer additive when they reach the cache.
    """
    bias = getattr(module, "k_proj", {}).get("bias", None)
    if bias is None:
        raise SpecError("The keys of this model have no bias to subtract.", "Use key_bias='keep'.")
    if getattr(module, "k_norm", None) is not None:
        raise SpecError("This model normalizes its keys after the bias.", "Use key_bias='keep'.")
    import mlx.core as mx

    flat = arrays.to_numpy(bias.astype(mx.float32))
    heads = kv_heads(module)
    if heads is None:
        raise ModelError("This model does not say how many KV heads it has.", "Use key_bias='keep' with it.")
    return KeyBias(np.array(flat).reshape(heads, -1), module.rope)


def kv_heads(module: Any) -> int | None:
    """The KV heads of an attention module, None where it does not say."""
    names = ("n_kv_heads", "num_key_value_heads")
    return next((int(heads) for name in names if (heads := getattr(module, name, None))), None)


def windows(model: Any, family: str) -> list[int | None]:
    """The sliding window of every layer, from the caches that the model itself would use.

    Raises:
        ModelError: a layer keeps something else than keys and values of all or of the last tokens.
    """
    from mlx_lm.models import cache

    found: list[int | None] = []
    for layer, own in enumerate(cache.make_prompt_cache(model)):
        if isinstance(own, cache.RotatingKVCache) and own.keep == 0:
            found.append(int(own.max_size))
        elif type(own) is cache.KVCache:
            found.append(None)
        else:
            raise ModelError(
                f"Layer {layer} of {family} keeps its state in a {type(own).__name__}, which cannot be packed.",
                "Packed caches work for full and sliding-window attention over keys and values.",
            )
    return found


def check_attention(module: Any, family: str) -> None:
    """Refuse an attention that does not hand keys and values over as they are.

    Raises:
        ModelError: with the reason.
    """
    from mlx_lm.models import base as mlx_base

    source = sys.modules[type(module).__module__]
    if getattr(source, "scaled_dot_product_attention", None) is not mlx_base.scaled_dot_product_attention:
        raise ModelError(
            f"The attention of {family} does not go through mlx-lm's scaled_dot_product_attention.",
            "Its cache cannot be packed: choose another model.",
        )
    if getattr(module, "sinks", None) is not None:
        raise ModelError(
            f"The attention of {family} has learned sinks.", "Its cache cannot be packed: choose another model."
        )


def check_factors(module: Any, model: Any, spec: KVSpec, factors: Mapping[str, Factors]) -> None:
    """Refuse learned factors where none are meant, missing ones, and those of another model's shape.

    Raises:
        SpecError: with the side and the reason.
    """
    heads, size = kv_heads(module), head_dim(module, model)
    for name in ("key", "value"):
        learned = getattr(spec, name).scaling == "learned"
        if learned != (name in factors):
            given = "has none" if learned else "is given some"
            raise SpecError(
                f"its {name}s are {getattr(spec, name).label}, and it {given} of the learned factors.",
                "Pass the fitted factors with scaling=learned, and none with scaling=fixed.",
            )
        shape = factors[name].per_head.shape if learned else None
        if shape and (shape[0] not in (1, heads or shape[0]) or shape[-1] != (size or shape[-1])):
            raise SpecError(
                f"the learned factors are for {shape[0]} heads of size {shape[-1]}, not {heads} of {size}.",
                "Fit them on this model.",
            )


def check_head_dim(module: Any, model: Any, spec: KVSpec) -> None:
    """Refuse methods that do not fit the head size of a layer.

    Raises:
        SpecError: with the method and what it takes.
    """
    size = head_dim(module, model)
    if size is not None:
        for side in (spec.key, spec.value):
            base.method(side.method).check_head_dim(side, size)
