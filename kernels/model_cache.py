"""The caches of a model: packed ones where it keeps keys, values or latents, mlx-lm's own everywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.kernels import arrays, attention, layers
from swarm.kernels.array_cache import ArrayKVCache
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import SpecError, SwarmError
from swarm.kernels.key_bias import KeyBias
from swarm.kernels.places import Place, all_places, replaced
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from swarm.kernels.codec import Factors
    from swarm.kernels.layer_shape import LayerShape
    from swarm.kernels.layers import TracedLayer


def make_cache(
    model: Any,
    kv: KVSpec | str | None = None,
    *,
    seed: int = 0,
    factors: Mapping[int, Mapping[str, Factors]] | None = None,
    traced: Sequence[TracedLayer] | None = None,
) -> list[Any]:
    """A cache for every layer of an mlx-lm model, to be passed as its `cache` or `prompt_cache`.

    Layers that keep keys and values, or latents, get packed caches, numbered as in `layers.trace`. Every other layer
    keeps mlx-lm's own cache.

    Args:
        model: The model as `mlx_lm.load` gives it.
        kv: What the layers store, or its label. Left out, everything stays in 16 bit.
        seed: Decides random rotations and sketches; every layer derives its own.
        factors: Learned scaling per layer: {"key": Factors, "value": Factors}.
        traced: What `layers.trace` found out about the model, where that is known already.

    Raises:
        ModelError: the model keeps nothing that could be packed; says why.
        SpecError: the label cannot be read, or the specification does not fit the model; says which layer and why.
    """
    from mlx_lm.models.cache import make_prompt_cache

    kv = KVSpec.parse(kv) if isinstance(kv, str) else kv or KVSpec()
    traced = layers.trace(model) if traced is None else traced
    layers.check(model, traced)
    _check_layers(kv, traced, factors or {})
    modules = layers.attention_modules(model, traced)
    caches: dict[Place, PackedKVCache] = {}
    for number, (layer, module) in enumerate(zip(traced, modules, strict=True)):
        if layer.place is None:
            continue
        learned = dict((factors or {}).get(number, {}))
        spec = kv.at(number)
        try:
            _check_dims(layer.shape, spec)
            _check_factors(layer.shape, spec, learned)
            bias = key_bias(module, layer.shape) if spec.key_bias == "subtract" else None
        except SwarmError as error:
            raise type(error)(f"Layer {number}: {error.problem}", error.remedy) from error
        kind = ArrayKVCache if layer.reads_arrays else PackedKVCache
        packed = kind(
            spec,
            window=layer.shape.window,
            chunk=layer.shape.chunk,
            layer=number,
            seed=seed,
            factors=learned,
            key_bias=bias,
            family=attention.family(model),
            dims=(layer.shape.key_dim, layer.shape.value_dim),
            logit_cap=layer.logit_cap,
        )
        if isinstance(packed, ArrayKVCache):  # an indexer picks among unpacked latents
            packed.latent = layer.shape.latent and not layer.shape.plain_dim
        caches[layer.place] = packed
    return replaced(make_prompt_cache(model), caches)


def packed_layers(caches: Sequence[Any]) -> list[PackedKVCache]:
    """The packed caches among those of a model, in the order of their layers."""
    return sorted((c for c in all_caches(caches) if isinstance(c, PackedKVCache)), key=lambda cache: cache.layer)


def other_caches(caches: Sequence[Any]) -> list[Any]:
    """mlx-lm's own caches among those of a model with packed ones: states, and keys of indexers."""
    return [cache for cache in all_caches(caches) if not isinstance(cache, PackedKVCache)]


def split(caches: Sequence[Any], traced: Sequence[TracedLayer]) -> tuple[list[Any], list[Any]]:
    """Caches of a model, packed or not: those of its traced layers' keys and values, and the others."""
    parts = dict(all_places(caches))
    kept = [parts.pop(layer.place) for layer in traced if layer.place is not None]
    return kept, list(parts.values())


def all_caches(caches: Sequence[Any]) -> Iterator[Any]:
    """Every cache among those of a model, also those that share a layer."""
    return (part for _, part in all_places(caches))


def key_bias(module: Any, shape: LayerShape) -> KeyBias:
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
    return KeyBias(np.array(flat).reshape(shape.kv_heads, -1), module.rope)


def _check_layers(kv: KVSpec, traced: Sequence[TracedLayer], factors: Mapping[int, Any]) -> None:
    """Refuse layers that do not exist, and those that keep no keys and values of their own.

    Raises:
        SpecError: with the first such layer.
    """
    named = {*(kv.layers or ()), *(layer for override in kv.overrides for layer in override.layers), *factors}
    kept = {number: layer for number, layer in enumerate(traced) if layer.place is not None}
    unknown = sorted(named - kept.keys())
    if not unknown:
        return
    number = unknown[0]
    if not 0 <= number < len(traced):
        raise SpecError(f"Layer {number} does not exist.", f"This model has layers 0 to {len(traced) - 1}.")
    shape = traced[number].shape
    kept_by = "a state" if shape.shared_from is None else f"nothing: it reads layer {shape.shared_from}"
    raise SpecError(
        f"Layer {number} keeps {kept_by}, so there are no keys and values to quantize.",
        f"Layers with keys and values: {', '.join(map(str, kept))}.",
    )


def _check_dims(shape: LayerShape, spec: KVSpec) -> None:
    """Refuse methods that do not fit the sizes of a layer's keys and values.

    Raises:
        SpecError: with the method and what it takes.
    """
    for side, dim in ((spec.key, shape.key_dim), (spec.value, shape.value_dim)):
        base.method(side.method).check_head_dim(side, dim)


def _check_factors(shape: LayerShape, spec: KVSpec, factors: Mapping[str, Factors]) -> None:
    """Refuse learned factors where none are meant, missing ones, and those of another model's shape.

    Raises:
        SpecError: with the side and the reason.
    """
    for name, size in (("key", shape.key_dim), ("value", shape.value_dim)):
        learned = getattr(spec, name).scaling == "learned"
        if learned != (name in factors):
            given = "has none" if learned else "is given some"
            raise SpecError(
                f"its {name}s are {getattr(spec, name).label}, and it {given} of the learned factors.",
                "Pass the fitted factors with scaling=learned, and none with scaling=fixed.",
            )
        found = factors[name].per_head.shape if learned else None
        if found and (found[0] not in (1, shape.kv_heads) or found[-1] != size):
            raise SpecError(
                f"the learned factors are for {found[0]} heads of size {found[-1]}, not {shape.kv_heads} of {size}.",
                "Fit them on this model.",
            )
