"""How many bits a KV method stores per value, exactly, and how people write methods: `affine4/g32`, `5`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import Field

from swarm.experiments.sizing.shape import LayerShape
from swarm.kernels import plugins
from swarm.kernels.errors import SpecError, UnknownNameError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import FrozenModel, KVSpec, QuantSpec

UNPACKED_BITS = 16
TAIL = re.compile(
    r"(?P<bits>\d+)?(?:/g(?P<group>\d+))?(?:/(?P<axis>token|channel))?(?:\+(?P<rotation>none|hadamard|random))?$"
)


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

    def key(self, dim: int) -> SideCost:
        """Cost of keys of that size.

        Raises:
            SpecError: the method does not fit the size.
        """
        return SideCost(bits=self.flat_bits) if self.kv is None else _cost(self.kv.key, dim)

    def value(self, dim: int) -> SideCost:
        """Cost of values of that size.

        Raises:
            SpecError: the method does not fit the size.
        """
        return SideCost(bits=self.flat_bits) if self.kv is None else _cost(self.kv.value, dim)

    def layer_bytes(self, layer: LayerShape, context: int) -> float:
        """Most bytes that a layer holds while a context grows to that many tokens.

        Until a block of tokens is full it waits in 16 bit, so that the bytes held rise and fall by a little: this is
        the upper edge, which never falls.
        """
        if not layer.kv_heads:
            return float(layer.state_bytes)
        tokens = layer.tokens(context)
        key = self._side_bytes(self.key(layer.key_dim), layer.key_dim * layer.kv_heads, tokens)
        value = self._side_bytes(self.value(layer.value_dim), layer.value_dim * layer.kv_heads, tokens)
        return key + value + layer.state_bytes

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
        text: `METHOD[BITS][/gGROUP][/channel][+ROTATION]`, two of them with a comma for keys and values, or a number of
            bits per value.
        sink_tokens: first tokens kept in 16 bit.
        residual_window: recent tokens kept in 16 bit.

    Raises:
        UnknownNameError: no such method.
        SpecError: the method does not take these parameters.
    """
    number = _number(text)
    if number is not None:
        if not 0 < number <= 32:
            raise SpecError(f"{text} is no number of bits per value.", "Give a number between 0 and 32, or a method.")
        return KVMethod(label=f"{number:g} bits/value", flat_bits=number)
    sides = [_spec(part.strip()) for part in text.split(",")]
    if len(sides) > 2:
        raise SpecError(f"{text!r} names {len(sides)} methods.", "Give one, or two: keys,values.")
    key, value = sides[0], sides[-1]
    if len(sides) == 1:
        return both(key, sink_tokens=sink_tokens, residual_window=residual_window)
    for spec, side in ((key, "key"), (value, "value")):
        base.method(spec.method).check_side(spec, side)  # type: ignore[arg-type]
    kv = KVSpec(key=key, value=value, sink_tokens=sink_tokens, residual_window=residual_window)
    return KVMethod(label=kv.label, kv=kv)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _spec(text: str) -> QuantSpec:
    names = sorted(plugins.names(base.PACKAGE), key=len, reverse=True)
    for name in names:
        tail = TAIL.fullmatch(text[len(name) :]) if text.startswith(name) else None
        if tail is not None:
            fields: dict[str, Any] = {key: value for key, value in tail.groupdict().items() if value is not None}
            group = fields.pop("group", None)
            return QuantSpec.model_validate({"method": name, "group_size": group, **fields}, strict=False)
    raise UnknownNameError("KV method", text, f"{', '.join(sorted(names))}, with bits and group as in affine4/g32")


def both(spec: QuantSpec, *, sink_tokens: int = 0, residual_window: int = 0) -> KVMethod:
    """A method for keys and values; on a side that it cannot quantize the tokens stay in 16 bit."""
    sides = base.method(spec.method).choices.sides
    key, value = (spec if side in sides else QuantSpec() for side in ("key", "value"))
    packed = spec.method != "none"
    kv = KVSpec(key=key, value=value, sink_tokens=packed * sink_tokens, residual_window=packed * residual_window)
    return KVMethod(label=kv.label if key != value or kv.sink_tokens or kv.residual_window else spec.label, kv=kv)


def variants(name: str) -> list[QuantSpec]:
    """Every choice of bits, group size and axis of a method, its default first."""
    offered = base.method(name).choices
    return [
        QuantSpec(method=name, bits=bits, group_size=group, axis=axis)
        for bits in offered.bits
        for group in offered.group_sizes
        for axis in offered.axes
        if _allowed(name, bits, group, axis)
    ]


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


def _allowed(name: str, bits: int, group: int | None, axis: str) -> bool:
    try:
        QuantSpec.model_validate({"method": name, "bits": bits, "group_size": group, "axis": axis})
    except SpecError:
        return False
    return True
