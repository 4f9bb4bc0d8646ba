"""Which cache configurations stand for a method: every width of it as it comes, rotated, with learned scaling.

Knows what methods offer; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from swarm.kernels import plugins
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, QuantSpec

COMPOSED = 4
"""The width at which rotation, learned scaling and, for models that have one, subtraction of the key bias are measured
beside the plain format."""


@dataclass(frozen=True)
class Row:
    """A configuration under the name of its method."""

    method: str
    kv: KVSpec

    @property
    def label(self) -> str:
        """One name when keys and values are stored alike, else both."""
        key, value = self.kv.key.label, self.kv.value.label
        same = key.replace("/channel", "") == value
        text = key.replace("/channel", "") if same else f"K {key}, V {value}"
        return text + (" - bias" if self.kv.key_bias == "subtract" else "")


def rows(head_dim: int, *, key_bias: bool) -> list[Row]:
    """Every method at a head size; with a key bias also 4 bits with the bias taken out."""
    found = [Row("none", KVSpec())]
    for name in plugins.names(base.PACKAGE):
        found += [Row(name, kv) for spec in _specs(name, head_dim) if (kv := _cache(spec, head_dim)) is not None]
    if key_bias:
        plain = [row for row in found if row.kv.key.bits == COMPOSED and row.kv.key.scaling == "fixed"]
        found += [Row(row.method, row.kv.model_copy(update={"key_bias": "subtract"})) for row in plain]
    return list(dict.fromkeys(found))


def _specs(name: str, head_dim: int) -> Iterator[QuantSpec]:
    offered = base.method(name).choices
    if name == "none":
        return
    for bits in sorted(offered.bits, reverse=True):
        yield from _fitting(name, head_dim, bits=bits)
        if bits == COMPOSED and offered.rotations[0] == "none" and "hadamard" in offered.rotations:
            yield from _fitting(name, head_dim, bits=bits, rotation="hadamard")
        if bits == COMPOSED and "learned" in offered.scalings:
            yield from _fitting(name, head_dim, bits=bits, scaling="learned")


def _fitting(name: str, head_dim: int, **fields: Any) -> Iterator[QuantSpec]:
    """The first specification with these fields that the head size takes; the axis stays open for both sides."""
    choices = base.method(name).choices
    for group in choices.group_sizes:
        axis = None if choices.side_axes else choices.axes[0]
        spec = QuantSpec(method=name, group_size=group, axis=axis, **fields)
        try:
            base.method(name).check_head_dim(spec, head_dim)
        except SpecError:
            continue
        yield spec
        return


def _cache(spec: QuantSpec, head_dim: int) -> KVSpec | None:
    """Keys and values alike; where a method takes keys only, values get MLX's format at the nearest width."""
    value = spec
    if "value" not in base.method(spec.method).choices.sides:
        widths = base.method("affine").choices.bits
        bits = min(widths, key=lambda offered: abs(offered - (spec.bits or COMPOSED)))
        value = QuantSpec(method="affine", bits=bits)
        if spec.scaling == "learned":
            return None
    kv = KVSpec(key=spec, value=value)
    try:
        for side in (kv.key, kv.value):
            base.method(side.method).check_head_dim(side, head_dim)
    except SpecError:
        return None
    return kv
