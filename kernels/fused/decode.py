"""Decode attention of one query token per sequence over packed, and a few 16-bit, keys and values.

The caller says which columns a query sees. Two launches: parts of the context, then their merge; one where a single
part is enough. Memory beside the output depends on the number of parts, never on the context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.kernels.errors import SpecError
from swarm.kernels.fused.form import Codes, PackedForm
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, Array, DType, Kernel, Launcher, numbers
from swarm.kernels.fused.plan import DecodePlan, Device, plan

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_DIMS = (64, 80, 96, 128, 256, 512)
MAX_GROUP = 16  # query heads per KV head
MAX_TOKENS = 1 << 30
_MAX_QUERY_HALVES = 8192  # float16 numbers of queries in threadgroup memory: half of it
_MERGE_SIMDGROUPS = 8
_MERGE_CHANNELS = 128  # of a threadgroup


@dataclass(frozen=True, eq=False)
class PackedSide:
    """Packed keys or values: arrays [B, H, capacity, ...] with contiguous rows, and the first token that counts."""

    form: PackedForm
    parts: Mapping[str, Array]
    first: int = 0


@dataclass(frozen=True, eq=False)
class DenseSide:
    """16-bit keys or values [B, H, capacity, D] with contiguous rows, and the first token that counts."""

    values: Array
    first: int = 0


@dataclass(frozen=True, eq=False)
class TokenRun:
    """`count` tokens of keys and values in one form, and queries [B, Hq, 1, D] in the frame of these keys."""

    key: Any
    value: Any
    count: int


@dataclass(frozen=True)
class _Geometry:
    """What decides the kernels of a decode attention, besides the formats: made once per geometry."""

    shape: tuple[int, ...]  # of the queries
    kv_heads: int
    query: DType
    out: DType
    half: DType | None  # of the 16-bit runs
    chosen: DecodePlan
    apart: bool


class DecodeAttention:
    """softmax(scale * q K^T) V for one query token, K and V in up to three runs: 16 bit, packed, 16 bit."""

    def __init__(self, launcher: Launcher, device: Device) -> None:
        self.launcher = launcher
        self.device = device
        self._kernels: dict[tuple[object, ...], tuple[Kernel, Kernel | None]] = {}

    def __call__(
        self,
        q: Array,
        scale: float,
        packed: TokenRun | None,
        *,
        framed: Array | None = None,
        head: TokenRun | None = None,
        tail: TokenRun | None = None,
        apart: bool = False,
    ) -> tuple[Array, Array | None]:
        """Attention of queries q [B, Hq, 1, D] over all runs.

        `framed` are the queries in the frame of the packed keys (q itself if left out). With `apart`, packed values
        live in a frame of their own: the result is then (packed part float32, 16-bit part float32 or None), which the
        caller adds up after mapping the first back; without it is (output in q's type, None).

        Raises:
            SpecError: a shape that the kernels do not take, or no token at all.
        """
        import mlx.core as mx

        counts = (_count(packed), _count(head), _count(tail))
        kv_heads = self._check(q, counts, packed or head or tail)
        group = q.shape[1] // kv_heads
        terms = 0 if packed is None else _terms(packed, q, group)
        chosen = plan(self.device, counts=counts, rows=q.shape[0] * kv_heads, group=group, terms=terms)
        sides = (packed.key, packed.value) if packed else (_nothing(), _nothing())
        (key_form, keys), (value_form, values) = (_described(side, q.shape[-1]) for side in sides)
        wide = q if framed is None or q.dtype == framed.dtype else q.astype(framed.dtype)  # mapped ones stay precise
        parts = (chosen.head_parts, chosen.tail_parts)
        arrays = [wide if framed is None else framed, *keys, *values]
        firsts = (packed.key.first, packed.value.first) if packed else (0, 0)
        given = [numbers(counts[0], chosen.packed_parts, *firsts, *parts, _bits_of(scale), kv_heads)]
        half = None
        if any(parts):
            half, dense, places = _dense(head, tail)
            arrays += [wide, *dense]
            given.append(numbers(*places))
        out = mx.float32 if apart else q.dtype
        geometry = _Geometry(tuple(q.shape), kv_heads, wide.dtype, out, half, chosen, apart)
        forms = ((key_form, keys), (value_form, values))
        key = (geometry, *((form.key, stored[1].dtype) for form, stored in forms))
        kernels = self._kernels.get(key)
        if kernels is None:
            kernels = self._kernels[key] = self._made(geometry, forms, [array.dtype for array in arrays])
        first, *leads = self.launcher.run(kernels[0], [*arrays, *given])
        if kernels[1] is None:
            return first, None
        (merged,) = self.launcher.run(kernels[1], [first, *leads, numbers(chosen.packed_parts)])
        return (merged[0], merged[1]) if merged.ndim > q.ndim else (merged, None)

    def _check(self, q: Array, counts: tuple[int, ...], run: TokenRun | None) -> int:
        """The number of KV heads."""
        _, q_heads, length, dim = q.shape
        if length != 1 or dim not in HEAD_DIMS:
            raise SpecError(
                f"The fused kernel does not take queries of shape {tuple(q.shape)}.",
                f"It takes one token and head sizes {', '.join(map(str, HEAD_DIMS))}.",
            )
        if run is None or not 0 < sum(counts) <= MAX_TOKENS:
            raise SpecError(f"Attention over {sum(counts)} tokens.", f"Give 1 to {MAX_TOKENS} tokens.")
        kv_heads = int(_codes_of(run.key).shape[1])
        if q_heads % kv_heads or q_heads > MAX_GROUP * kv_heads:
            raise SpecError(
                f"{q_heads} query heads over {kv_heads} KV heads do not suit the fused kernel.",
                f"It takes groups of 1 to {MAX_GROUP}.",
            )
        return kv_heads

    def _made(self, of: _Geometry, forms: _Described, types: list[DType]) -> tuple[Kernel, Kernel | None]:
        """The first launch, every threadgroup one part of one run, and the merge, None where there is one part."""
        import mlx.core as mx

        batch, q_heads, _, dim = of.shape
        chosen, names = of.chosen, ["q_frame"]
        template: list[tuple[str, Any]] = [
            ("DIM", dim),
            ("Q", of.query),
            ("GQA", q_heads // of.kv_heads),
            ("MATRIX", chosen.terms),
            ("SIMDS", self.device.simdgroups),
            ("AHEAD", self.device.ahead),
        ]
        for prefix, (form, stored) in zip("kv", forms, strict=True):
            template += form.arguments(f"{prefix.upper()}_")
            template.append((f"{prefix.upper()}S", stored[1].dtype))
            names += [f"{prefix}_codes", f"{prefix}_scales", f"{prefix}_biases"]
        given = ["counts"]
        if of.half is not None:
            names += ["q", "head_k", "head_v", "tail_k", "tail_v"]
            given.append("dense")
            template += [("H", of.half), ("H_CODES", 4 if of.half == mx.bfloat16 else 3)]
        rows = (batch, q_heads, chosen.parts)
        single = chosen.parts == 1 and of.half is None
        outputs: tuple[tuple[str, tuple[int, ...], DType], ...] = (
            ("partials", (*rows, dim), mx.float32),
            ("leads", (max(MIN_INPUT_ELEMENTS, 2 * math.prod(rows)),), mx.float32),
        )
        if single:
            outputs = (("out", of.shape, of.out),)
            template.append(("T", of.out))
        first = Kernel(
            "decode_whole" if single else "decode_packed" if of.half is None else "decode",
            tuple(template),
            (*zip(names, types, strict=True), *((name, mx.float32) for name in given)),
            outputs,
            (chosen.parts, of.kv_heads, batch),
            32 * self.device.simdgroups,
        )
        return first, None if single else _merge(of)


def _merge(of: _Geometry) -> Kernel:
    import mlx.core as mx

    batch, heads, _, dim = of.shape
    outputs = 2 if of.apart and of.half is not None else 1
    return Kernel(
        "merge",
        (("DIM", dim), ("SIMDS", _MERGE_SIMDGROUPS), ("OUTPUTS", outputs), ("T", of.out)),
        tuple((name, mx.float32) for name in ("partials", "leads", "counts")),
        (("out", (outputs, *of.shape) if outputs > 1 else of.shape, of.out),),
        (-(-dim // _MERGE_CHANNELS), heads, batch),
        32 * _MERGE_SIMDGROUPS,
    )


@lru_cache(maxsize=64)
def _bits_of(scale: float) -> int:
    """The scale of base-2 scores as the bits of a float32."""
    return int(np.float32(scale * math.log2(math.e)).view(np.int32))


def _count(run: TokenRun | None) -> int:
    return 0 if run is None else run.count


def _terms(run: TokenRun, q: Array, group: int) -> int:
    """How many float16 terms hold a query: one for 16-bit types, two for float32; 0 where tiles cannot be.

    Tiles hold codes exactly, but not bfloat16 values; and queries must leave room in threadgroup memory.
    """
    import mlx.core as mx

    terms = 2 if q.dtype == mx.float32 else 1
    heads = -(-group // 8) * 8
    tiles = isinstance(run.key, PackedSide) and isinstance(run.value, PackedSide)
    return terms if tiles and terms * heads * q.shape[-1] <= _MAX_QUERY_HALVES else 0


def _codes_of(side: PackedSide | DenseSide) -> Array:
    return side.parts[side.form.codes_name] if isinstance(side, PackedSide) else side.values


_Described = tuple[tuple[PackedForm, tuple[Array, ...]], tuple[PackedForm, tuple[Array, ...]]]


def _described(side: PackedSide | DenseSide, dim: int) -> tuple[PackedForm, tuple[Array, ...]]:
    """Form and the arrays (codes, scales, biases or codebook), with a stand-in for those that it does not have."""
    import mlx.core as mx

    if isinstance(side, DenseSide):
        return _sixteen_bit(dim, side.values.dtype), (_padded(side.values),) * 3
    form, parts = side.form, side.parts
    scales = _blank(mx.float16) if form.scales_name is None else parts[form.scales_name]
    biases = scales if form.biases_name is None else parts[form.biases_name]
    if form.book is not None:
        biases = _book(form.book_bytes, scales.dtype)
    return form, (_padded(parts[form.codes_name]), _padded(scales), _padded(biases))


@cache
def _sixteen_bit(dim: int, dtype: DType) -> PackedForm:
    import mlx.core as mx

    codes: Codes = "bfloat16" if dtype == mx.bfloat16 else "float16"
    return PackedForm(16, dim, codes, 0)


def _dense(head: TokenRun | None, tail: TokenRun | None) -> tuple[DType, list[Array], tuple[int, ...]]:
    """Type, arrays and numbers of the 16-bit runs; an absent one reads nothing of the other's arrays."""
    present = [run for run in (head, tail) if run]
    runs = (head or present[0], tail or present[0])
    half = runs[0].key.values.dtype
    arrays = [_padded(side.values.astype(half)) for run in runs for side in (run.key, run.value)]
    return half, arrays, tuple(number for run in runs for number in (run.count, run.key.first, run.value.first))


@cache
def _nothing() -> DenseSide:
    """What stands for packed tokens where there are none."""
    import mlx.core as mx

    return DenseSide(_blank(mx.float16))


@cache
def _blank(dtype: Any) -> Array:
    """What stands for an array that a launch does not use."""
    import mlx.core as mx

    blank = mx.zeros((1, 1, 1, MIN_INPUT_ELEMENTS), dtype=dtype)
    mx.eval(blank)
    return blank


@lru_cache(maxsize=64)
def _book(values: bytes, dtype: Any) -> Array:
    """A codebook on the device, padded to the least size of an input."""
    import mlx.core as mx

    book = np.frombuffer(values, np.float32)
    table = mx.array(np.pad(book, (0, max(0, MIN_INPUT_ELEMENTS - book.size)))).astype(dtype).reshape(1, 1, 1, -1)
    mx.eval(table)
    return table


def _padded(array: Array) -> Array:
    """The array with at least `MIN_INPUT_ELEMENTS` elements; more tokens where it has fewer."""
    import mlx.core as mx

    if array.size >= MIN_INPUT_ELEMENTS:
        return array
    tokens = -(-MIN_INPUT_ELEMENTS // (array.size // array.shape[2])) - array.shape[2]
    return mx.pad(array, [(0, 0), (0, 0), (0, tokens), (0, 0)])
