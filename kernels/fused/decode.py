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
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, Array, DType, KernelCall, Launcher
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


class DecodeAttention:
    """softmax(scale * q K^T) V for one query token, K and V in up to three runs: 16 bit, packed, 16 bit."""

    def __init__(self, launcher: Launcher, device: Device) -> None:
        self.launcher = launcher
        self.device = device

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
        runs = (packed, head, tail)
        counts = (_count(packed), _count(head), _count(tail))
        batch, q_heads = self._check(q, counts)
        kv_heads = _arrays_of(next(run for run in runs if run and run.count))[0].shape[1]
        group = q_heads // kv_heads
        if kv_heads * group != q_heads or group > MAX_GROUP:
            raise SpecError(
                f"{q_heads} query heads over {kv_heads} KV heads do not suit the fused kernel.",
                f"It takes groups of 1 to {MAX_GROUP}.",
            )
        terms = 0 if packed is None else _terms(packed, q, group)
        chosen = plan(self.device, counts=counts, rows=batch * kv_heads, group=group, terms=terms)
        wide = q if framed is None else q.astype(framed.dtype)  # mapped queries keep their precision
        out = _float32() if apart else q.dtype
        call = self.call(wide, wide if framed is None else framed, scale, runs, chosen, group, out)
        first, *leads = self.launcher.run(call)
        return self._merge(first, leads[0], chosen, q, apart) if leads else (first, None)

    def _check(self, q: Array, counts: tuple[int, ...]) -> tuple[int, int]:
        batch, q_heads, length, dim = q.shape
        if length != 1 or dim not in HEAD_DIMS:
            raise SpecError(
                f"The fused kernel does not take queries of shape {tuple(q.shape)}.",
                f"It takes one token and head sizes {', '.join(map(str, HEAD_DIMS))}.",
            )
        if not 0 < sum(counts) <= MAX_TOKENS:
            raise SpecError(f"Attention over {sum(counts)} tokens.", f"Give 1 to {MAX_TOKENS} tokens.")
        return batch, q_heads

    def call(
        self,
        q: Array,
        framed: Array,
        scale: float,
        runs: tuple[TokenRun | None, ...],
        chosen: DecodePlan,
        group: int,
        out: DType,
    ) -> KernelCall:
        """The first launch: every threadgroup one part of one run; the output [B, Hq, 1, D] if there is but one."""
        import mlx.core as mx

        batch, q_heads, _, dim = q.shape
        packed, head, tail = runs
        key, value = (packed.key, packed.value) if packed else (_nothing(), _nothing())
        inputs: list[tuple[str, Array]] = [("q_frame", framed)]
        template: list[tuple[str, Any]] = [
            ("DIM", dim),
            ("Q", q.dtype),
            ("GQA", group),
            ("MATRIX", chosen.terms),
            ("SIMDS", self.device.simdgroups),
            ("AHEAD", self.device.ahead),
        ]
        for prefix, side in (("k", key), ("v", value)):
            form, arrays = _described(side, dim)
            template += form.arguments(f"{prefix.upper()}_")
            template.append((f"{prefix.upper()}S", arrays[1].dtype))
            names = (f"{prefix}_codes", f"{prefix}_scales", f"{prefix}_biases")
            inputs += [(name, _padded(array)) for name, array in zip(names, arrays, strict=True)]
        bits = int(np.float32(scale * math.log2(math.e)).view(np.int32))
        firsts = (packed.key.first, packed.value.first) if packed else (0, 0)
        parts = (chosen.head_parts, chosen.tail_parts)
        numbers = [("counts", (_count(packed), chosen.packed_parts, *firsts, *parts, bits, q_heads // group))]
        if any(parts):
            more, types, places = _dense(head, tail)
            inputs += [("q", q), *more]
            template += types
            numbers.append(("dense", places))
        rows = (batch, q_heads, chosen.parts)
        outputs: tuple[tuple[str, tuple[int, ...], DType], ...] = (
            ("partials", (*rows, dim), mx.float32),
            ("leads", (max(MIN_INPUT_ELEMENTS, 2 * math.prod(rows)),), mx.float32),
        )
        if chosen.parts == 1 and not any(parts):
            outputs = (("out", tuple(q.shape), out),)
            template.append(("T", out))
        return KernelCall(
            "decode" if any(parts) else "decode_packed" if chosen.parts > 1 else "decode_whole",
            tuple(template),
            tuple(inputs),
            outputs,
            (chosen.parts, q_heads // group, batch),
            32 * self.device.simdgroups,
            tuple(numbers),
        )

    def _merge(
        self, partials: Array, leads: Array, chosen: DecodePlan, q: Array, apart: bool
    ) -> tuple[Array, Array | None]:
        import mlx.core as mx

        batch, heads, _, dim = partials.shape
        outputs = 2 if apart and chosen.parts > chosen.packed_parts else 1
        call = KernelCall(
            "merge",
            (
                ("DIM", dim),
                ("SIMDS", _MERGE_SIMDGROUPS),
                ("OUTPUTS", outputs),
                ("T", mx.float32 if apart else q.dtype),
            ),
            (
                ("partials", partials),
                ("leads", leads),
            ),
            (("out", (outputs, *q.shape) if outputs > 1 else q.shape, mx.float32 if apart else q.dtype),),
            (-(-dim // _MERGE_CHANNELS), heads, batch),
            32 * _MERGE_SIMDGROUPS,
            (("counts", (chosen.packed_parts,)),),
        )
        (out,) = self.launcher.run(call)
        return (out[0], out[1]) if outputs > 1 else (out, None)


def _float32() -> DType:
    import mlx.core as mx

    return mx.float32


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


def _arrays_of(run: TokenRun) -> list[Array]:
    side = run.key
    return [side.parts[side.form.codes_name]] if isinstance(side, PackedSide) else [side.values]


def _described(side: PackedSide | DenseSide, dim: int) -> tuple[PackedForm, tuple[Array, Array, Array]]:
    """Form and the arrays (codes, scales, biases or codebook), with a stand-in for those that it does not have."""
    import mlx.core as mx

    if isinstance(side, DenseSide):
        codes: Codes = "bfloat16" if side.values.dtype == mx.bfloat16 else "float16"
        return PackedForm(16, dim, codes, 0), (side.values, side.values, side.values)
    form, parts = side.form, side.parts
    scales = _blank(mx.float16) if form.scales_name is None else parts[form.scales_name]
    biases = scales if form.biases_name is None else parts[form.biases_name]
    if form.book is not None:
        biases = _book(np.asarray(form.book, np.float32).tobytes(), scales.dtype)
    return form, (parts[form.codes_name], scales, biases)


_Named = list[tuple[str, Any]]


def _dense(head: TokenRun | None, tail: TokenRun | None) -> tuple[_Named, _Named, tuple[int, ...]]:
    """Inputs, template arguments and numbers of the 16-bit runs; an absent one reads nothing of the other's arrays."""
    import mlx.core as mx

    present = [run for run in (head, tail) if run]
    first, last = head or present[0], tail or present[0]
    half = first.key.values.dtype
    inputs = [
        (f"{name}_{x}", _padded(side.values.astype(half)))
        for name, run in (("head", first), ("tail", last))
        for x, side in (("k", run.key), ("v", run.value))
    ]
    places = [number for run in (first, last) for number in (run.count, run.key.first, run.value.first)]
    return inputs, [("H", half), ("H_CODES", 4 if half == mx.bfloat16 else 3)], tuple(places)


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
