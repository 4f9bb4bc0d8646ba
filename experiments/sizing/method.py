"""How many bits a KV method stores per value, exactly, and how people write methods: `affine4/g32`, `5`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache

from pydantic import Field

from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import SpecError
from swarm.kernels.layer_shape import LayerShape
from swarm.kernels.quantizers import base
from swarm.kernels.spec import FrozenModel, KVSpec, QuantSpec, variants

UNPACKED_BITS = 16


class SideCost(FrozenModel):
    """What one side costs at one head size: bits per value, tokens per block, bytes of tables per layer."""

    bits: float
    block_tokens: int = 1
    constant_bytes: int = 0


class KVMethod(FrozenModel):
    """Bits per value of keys and values, from a specification or, for arithmetic, as plain numbers."""

    label: str
    kv: KVSpec | None = None
    flat_bits: float = Field(default=UNPACKED_BITS, gt=0, le=32)

    def cost(self, side: base.Side, dim: int) -> SideCost:
        """Cost of keys or values of that size.

        Raises:
            SpecError: the method does not fit the size.
        """
        if self.kv is None:
            return SideCost(bits=self.flat_bits)
        return _cost(self.kv.key if side == "key" else self.kv.value, dim)

    def layer_bytes(self, layer: LayerShape, context: int) -> float:
        """Most bytes that a layer holds while a context grows to that many tokens.

        Until a block of tokens is full it waits in 16 bit, so that the bytes held rise and fall by a little: this is
        the upper edge, which never falls.
        """
        if not layer.kv_heads:
            return float(layer.state_bytes)
        tokens = layer.tokens(context)
        key = self._side_bytes(self.cost("key", layer.key_dim), layer.key_dim * layer.kv_heads, tokens)
        value = self._side_bytes(self.cost("value", layer.value_dim), layer.value_dim * layer.kv_heads, tokens)
        plain = layer.plain_dim * tokens * UNPACKED_BITS / 8
        return key + value + plain + layer.state_bytes

    def _side_bytes(self, cost: SideCost, width: int, tokens: int) -> float:
        whole = 0 if self.kv is None else self.kv.sink_tokens + self.kv.residual_window
        kept = min(tokens, whole + cost.block_tokens - 1)
        return width * (kept * UNPACKED_BITS + (tokens - kept) * cost.bits) / 8 + cost.constant_bytes


@cache
def _cost(spec: QuantSpec, dim: int) -> SideCost:
    quantizer = base.build(spec, dim)
    return SideCost(
        bits=quantizer.bits_per_value(),
        block_tokens=quantizer.block_tokens,
        constant_bytes=quantizer.constant_nbytes,
    )


def parse(text: str, *, sink_tokens: int = 0, residual_window: int = 0) -> KVMethod:
    """The method that a text means.

    Args:
        text: what `KVSpec.parse` reads, such as `affine4/g32` or `q8_0,q4_0`, or a number of bits per value.
        sink_tokens: first tokens kept in 16 bit.
        residual_window: recent tokens kept in 16 bit.

    Raises:
        SpecError: no such method, or it does not take these parameters.
    """
    with suppress(ValueError):
        number = float(text)
        if not 0 < number <= 32:
            raise SpecError(f"{text} is no number of bits per value.", "Give a number between 0 and 32, or a method.")
        return KVMethod(label=f"{number:g} bits/value", flat_bits=number)
    kv = KVSpec.parse(text)
    if kv.overrides or kv.layers is not None:
        raise SpecError(f"{text!r} treats layers differently.", "Plans are for caches that are alike in all layers.")
    return _of(kv, sink_tokens, residual_window)


def both(spec: QuantSpec, *, sink_tokens: int = 0, residual_window: int = 0) -> KVMethod:
    """A method for keys and values; on a side that it cannot quantize the tokens stay in 16 bit."""
    kv = KVSpec(**dict.fromkeys(base.method(spec.method).choices.sides, spec))
    return _of(kv, sink_tokens, residual_window)


def _of(kv: KVSpec, sink_tokens: int, residual_window: int) -> KVMethod:
    """The method of a configuration, with so many more tokens in 16 bit where anything is quantized."""
    if (kv.key.method, kv.value.method) != ("none", "none"):
        kv = kv.model_copy(
            update={
                "sink_tokens": sink_tokens or kv.sink_tokens,
                "residual_window": residual_window or kv.residual_window,
            }
        )
    alone = kv.key == kv.value and KVSpec.parse(kv.key.label) == kv
    return KVMethod(label=kv.key.label if alone else kv.label, kv=kv)


def default(name: str, dims: Iterable[int]) -> QuantSpec:
    """The first choice of a method that fits all head sizes; its plain default when none does."""
    sizes = set(dims)
    return next((spec for spec in variants(name) if all(_fits(spec, dim) for dim in sizes)), QuantSpec(method=name))


def _fits(spec: QuantSpec, dim: int) -> bool:
    try:
        _cost(spec, dim)
    except SpecError:
        return False
    return True


def kv_bytes(model: ModelShape, method: KVMethod, context: int) -> int:
    """Most bytes that the KV cache of a model holds while a context grows to that many tokens.

    Raises:
        SpecError: the method does not fit the model's head size.
    """
    return math.ceil(sum(count * method.layer_bytes(layer, context) for layer, count in model.groups.items()))


def cache_bytes(layers: Sequence[LayerShape], kv: KVSpec, context: int) -> int:
    """Most bytes that a cache holds in which layers may differ, while a context grows to that many tokens.

    Raises:
        SpecError: a method does not fit the layer that it is for.
    """
    methods = (KVMethod(label="", kv=kv.at(place)) for place in range(len(layers)))
    return math.ceil(sum(method.layer_bytes(layer, context) for layer, method in zip(layers, methods, strict=True)))


def per_token(model: ModelShape, method: KVMethod, *, windows_full: bool) -> float:
    """Cache bytes of one further token, once the windows are full or before."""
    total = 0.0
    for layer, count in model.groups.items():
        if layer.kv_heads and not (windows_full and layer.reach is not None):
            key, value = method.cost("key", layer.key_dim), method.cost("value", layer.value_dim)
            packed = layer.kv_heads * (layer.key_dim * key.bits + layer.value_dim * value.bits)
            total += count * (packed + layer.plain_dim * UNPACKED_BITS) / 8
    return total
