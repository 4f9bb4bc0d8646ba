"""The newest tokens of a layer, packed, in one small array beside the stores.

Every new token makes the array anew, in one launch for keys and values: no slice of a large array is updated, which
MLX does in place only where nothing that is still being computed reads it, and copies otherwise. When the array is
full, its tokens move into the stores. What is stored is the same as without it, byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from swarm.kernels.fused.encode import LANES, SIMDGROUPS, edges_of, layout, stored_parts, typed
from swarm.kernels.fused.form import ENCODERS, PackedForm
from swarm.kernels.fused.launch import Kernel, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.kernels.fused.decode import Reading
    from swarm.kernels.fused.launch import Array, DType, Launcher

ROOM = 64  # tokens

Stored = tuple["Mapping[str, Array]", "Mapping[str, Array]"]  # the packed arrays of keys and of values


@dataclass(frozen=True, eq=False)
class _Plane:
    """A packed array of one side: name, type, shape [B, H, ROOM, ...], and its bytes [first, stop) per KV head."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    first: int
    stop: int

    def of(self, words: Array) -> Array:
        """The array out of all, uint32 [B, H, words]. Nothing is copied, as its type is no wider."""
        width = words.dtype.size
        return words[:, :, self.first // width : self.stop // width].view(self.dtype).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class _Way:
    """How tokens of keys and values of shapes [B, H, 1, D] and types are packed: made once for all layers."""

    forms: tuple[PackedForm, PackedForm]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    types: tuple[DType, DType]
    kernel: Kernel
    edges: tuple[Array, Array]
    halved: tuple[bool, bool]  # whether they are rounded to float16 first
    planes: tuple[tuple[_Plane, ...], tuple[_Plane, ...]]
    apart: Callable[[Array], list[Array]]  # the arrays of all planes out of that of a layer

    def takes(self, keys: Array, values: Array) -> bool:
        return (keys.shape, values.shape) == self.shapes and (keys.dtype, values.dtype) == self.types


@dataclass(eq=False)
class Recent:
    """`count` packed tokens of keys and values in `array`, uint8 [B, H, bytes]; never changed.

    `reading` is how attention reads the layer while such tokens come in. The stores do not change before these tokens
    move into them. Tokens after that go on with it where they moved into the same arrays.
    """

    way: _Way
    array: Array
    count: int
    reading: Reading | None = None

    def side(self, index: int) -> RecentSide:
        """The keys (0) or the values (1)."""
        return RecentSide(self, index)

    def moved(self) -> Recent:
        """What is left once its tokens are in the stores, in the arrays that they had."""
        reading = None if self.reading is None else self.reading.behind(self.count)
        return Recent(self.way, _zeros(self.array.shape), 0, reading)

    @cached_property
    def planes(self) -> list[Array]:
        """The packed arrays [B, H, ROOM, ...] of keys, then of values."""
        return self.way.apart(self.array)


@dataclass(eq=False)
class RecentSide:
    """One side of recent tokens: what a store counts as its last blocks."""

    of: Recent
    index: int

    @property
    def count(self) -> int:
        """Tokens."""
        return self.of.count

    @property
    def nbytes(self) -> int:
        """Bytes of this side, room for further tokens included."""
        planes = self.of.way.planes[self.index]
        return int(math.prod(self.of.array.shape[:2])) * (planes[-1].stop - planes[0].first)

    def parts(self) -> dict[str, Array]:
        """The packed arrays [B, H, count, ...] by name, as the method's encoder makes them."""
        mine, first = self.of.way.planes[self.index], self.index * len(self.of.way.planes[0])
        held = dict(zip((plane.name for plane in mine), self.of.planes[first : first + len(mine)], strict=True))
        full = self.of.count == mine[0].shape[2]
        return held if full else {name: part[:, :, : self.of.count] for name, part in held.items()}


class FusedAppend:
    """Packs tokens one by one, keys and values in one launch; byte for byte as the methods' own encoders."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self._ways: dict[tuple[object, ...], _Way | None] = {}

    def first(
        self, forms: tuple[PackedForm | None, PackedForm | None], keys: Array, values: Array, stored: Stored
    ) -> Recent | None:
        """A first token of keys and values [B, H, 1, D], to be moved into `stored` later; None where no kernel can."""
        if forms[0] is None or forms[1] is None:
            return None
        given = (keys.shape, values.shape, keys.dtype, values.dtype)
        types = tuple((name, part.dtype) for parts in stored for name, part in parts.items())
        key = (forms[0].key, forms[1].key, *given, types)
        if key not in self._ways:
            self._ways[key] = _way((forms[0], forms[1]), keys, values, stored)
        way = self._ways[key]
        return None if way is None else self.behind(Recent(way, _zeros(way.kernel.outputs[0][1]), 0), keys, values)

    def behind(self, recent: Recent, keys: Array, values: Array) -> Recent | None:
        """One more token; None where there is no room, or it is of another shape or type."""
        way = recent.way
        if recent.count == ROOM or not way.takes(keys, values):
            return None
        if way.halved[0]:
            keys = typed(way.forms[0], keys)
        if way.halved[1]:
            values = typed(way.forms[1], values)
        (packed,) = self.launcher.run(way.kernel, (keys, values, recent.array, *way.edges, numbers(recent.count)))
        return Recent(way, packed, recent.count + 1, recent.reading)


def _apart(planes: list[tuple[_Plane, ...]]) -> Callable[[Array], list[Array]]:
    """A traced function from the array of a layer to those of its planes."""
    import mlx.core as mx

    def split(array: Array) -> list[Array]:
        words = array.view(mx.uint32)
        return [plane.of(words) for side in planes for plane in side]

    return mx.compile(split)


def _way(forms: tuple[PackedForm, PackedForm], keys: Array, values: Array, stored: Stored) -> _Way | None:
    if any(form.encoder is None for form in forms) or keys.shape[:3] != values.shape[:3]:
        return None
    planes: list[tuple[_Plane, ...]] = []
    first = 0
    for form, x, parts in zip(forms, (keys, values), stored, strict=True):
        side = []
        for name, shape, dtype in stored_parts(form, typed(form, x)):
            if name not in parts or parts[name].dtype != dtype:
                return None
            roomy = (*shape[:2], ROOM, *shape[3:])
            stop = first + math.prod(roomy[2:]) * int(dtype.size)
            side.append(_Plane(name, dtype, roomy, first, stop))
            first = stop
        planes.append(tuple(side))
    given = (typed(forms[0], keys), typed(forms[1], values))
    return _Way(
        forms,
        (keys.shape, values.shape),
        (keys.dtype, values.dtype),
        _kernel(forms, *given, first),
        (edges_of(forms[0]), edges_of(forms[1])),
        (given[0] is not keys, given[1] is not values),
        (planes[0], planes[1]),
        _apart(planes),
    )


def _kernel(forms: tuple[PackedForm, PackedForm], keys: Array, values: Array, nbytes: int) -> Kernel:
    import mlx.core as mx

    batch, heads, _, _ = keys.shape
    template: list[tuple[str, Any]] = [("SIMDS", SIMDGROUPS), ("ROOM", ROOM)]
    for prefix, form, x in zip("KV", forms, (keys, values), strict=True):
        template += form.arguments(f"{prefix}_")
        template.append((f"{prefix}_DIM", x.shape[-1]))
        template.append((f"{prefix}_KIND", ENCODERS.index(form.encoder)))
        fields = {"affine": x.dtype, "minifloats": mx.uint8}.get(layout(form), mx.float16)
        template.append((f"{prefix}S", fields))
    inputs = (("keys", keys.dtype), ("values", values.dtype), ("recent", mx.uint8))
    floats = tuple((name, mx.float32) for name in ("key_edges", "value_edges", "counts"))
    outputs = (("packed", (batch, heads, nbytes), mx.uint8),)
    grid = (-(-ROOM // SIMDGROUPS), heads, 2 * batch)
    return Kernel("append", tuple(template), (*inputs, *floats), outputs, grid, LANES * SIMDGROUPS)


@cache
def _zeros(shape: tuple[int, ...]) -> Array:
    import mlx.core as mx

    zeros = mx.zeros(shape, dtype=mx.uint8)
    mx.eval(zeros)
    return zeros
