"""Decode attention of one query token per sequence over packed, and a few 16-bit, keys and values.

The caller says which columns a query sees. Two launches: parts of the context, then their merge; one where a single
part is enough. Memory beside the output depends on the number of parts, never on the context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from swarm.kernels.errors import SpecError
from swarm.kernels.fused import operands, sources
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, Array, DType, Kernel, Launcher, numbers
from swarm.kernels.fused.operands import PackedSide, Scoring, TokenRun
from swarm.kernels.fused.plan import DecodePlan, Device, plan
from swarm.kernels.fused.recent import ROOM

DIM_STEP, MAX_DIM = 16, 512  # head sizes, of keys and of values: multiples of the one up to the other
MAX_SET_HEADS = 16  # query heads of a KV head that one threadgroup works on
MAX_TOKENS = 1 << 30
_MAX_QUERY_HALVES = 9216  # float16 numbers of queries in threadgroup memory: 16 heads of 512 + 64 channels
_MERGE_SIMDGROUPS = 8
_MAX_LAUNCHES = 256  # that are remembered: those of some steps
_MERGE_CHANNELS = 128  # of a threadgroup

_Described = tuple[tuple[PackedForm, tuple[Array, ...]], tuple[PackedForm, tuple[Array, ...]]]


class _Sides(NamedTuple):
    """KV heads, and head sizes of a run's keys and values; whether they are latents and the rest of keys."""

    heads: int
    key_dim: int
    value_dim: int
    latent: bool

    @property
    def out_dim(self) -> int:
        """The head size of the output."""
        return self.key_dim if self.latent else self.value_dim


@dataclass(frozen=True)
class _Geometry:
    """What decides the kernels of a decode attention, besides the formats: made once per geometry."""

    shape: tuple[int, ...]  # of the queries
    sides: _Sides
    set_heads: int  # query heads of a threadgroup
    query: DType
    out: DType
    half: DType | None  # of the 16-bit runs
    chosen: DecodePlan
    apart: bool
    room: int  # for recent tokens, 0 where there are none
    scored: tuple[tuple[str, Any], ...]  # template arguments of a kernel that does something with scores

    @property
    def sets(self) -> int:
        """Sets of query heads of one KV head."""
        return -(-self.shape[1] // self.sides.heads // self.set_heads)


class _Decoding(NamedTuple):
    """What decides the launches of a call, besides the formats: the same for layers of one shape in one step."""

    shape: tuple[int, ...]  # of the queries
    sides: _Sides
    query: DType
    wide: DType  # the type in which they meet keys
    half: DType | None  # of the 16-bit runs
    counts: tuple[int, int, int]
    read_from: tuple[Any, ...]  # recent tokens, first tokens, the 16-bit runs, the column of the bias
    scale: float
    apart: bool
    scored: tuple[tuple[str, Any], ...]


_Launches = tuple[
    Kernel, Array, Kernel | None, Array
]  # attention and the merge, each with the numbers that it is given


class DecodeAttention:
    """softmax(scale * q K^T) V for one query token, K and V in up to three runs: 16 bit, packed, 16 bit."""

    def __init__(self, launcher: Launcher, device: Device) -> None:
        self.launcher = launcher
        self.device = device
        self._kernels: dict[tuple[object, ...], tuple[Kernel, Kernel | None]] = {}
        self._launches: dict[tuple[object, ...], _Launches] = {}

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
        scoring: Scoring = operands.PLAIN,
        latent: bool = False,
    ) -> tuple[Array, Array | None]:
        """Attention of queries q [B, Hq, 1, Dk] over all runs, [B, Hq, 1, Dv].

        `framed` are the queries in the frame of the packed keys (q itself if left out). With `apart`, packed values
        live in a frame of their own: the result is then (packed part float32, 16-bit part float32 or None), which the
        caller adds up after mapping the first back; without it is (output in q's type, None).

        With `latent`, the keys of a run are latents that are read as values too, and its values are the rest of the
        keys (the rotary part of multi-head latent attention, 2405.04434), which the last channels of q meet.

        Raises:
            SpecError: a shape that the kernels do not take, or no token at all.
        """
        run = packed or head or tail
        counts = (_count(packed), _count(head), _count(tail))
        if run is None:
            raise SpecError("Attention over 0 tokens.", f"Give 1 to {MAX_TOKENS} tokens.")
        second = operands.dim_of(run.value)
        sides = _Sides(operands.codes_of(run.key).shape[1], q.shape[-1] - second * latent, second, latent)
        key, value = (packed.key, packed.value) if packed else (operands.nothing(), operands.nothing())
        forms = (operands.described(key, sides.key_dim), operands.described(value, sides.value_dim))
        recent, fresh = operands.recent_of(packed)
        wide = q if framed is None or q.dtype == framed.dtype else q.astype(framed.dtype)  # mapped ones stay precise
        arrays = [wide if framed is None else framed, *forms[0][1], *forms[1][1], recent]
        half, places = None, operands.NOWHERE
        if head or tail:
            half, dense, places = operands.dense(head, tail)
            arrays += [wide, *dense]
        scored: tuple[tuple[str, Any], ...] = ()
        if not scoring.plain:
            scored, read = operands.scored(scoring, (q.shape[0], q.shape[1]))
            arrays += read
        firsts = (packed.key.first, packed.value.first) if packed else (0, 0)
        read_from = (fresh, firsts, places, operands.bias_column(scoring, counts))
        call = _Decoding(q.shape, sides, q.dtype, wide.dtype, half, counts, read_from, scale, apart, scored)
        known = (call, *((form.key, stored[1].dtype) for form, stored in forms))
        launches = self._launches.get(known)
        if launches is None:  # the first layer of a step; the others are alike
            if len(self._launches) >= _MAX_LAUNCHES:
                self._launches.clear()
            launches = self._launches[known] = self._prepared(call, packed, forms, arrays)
        attention, given, merge, merged_parts = launches
        first, *leads = self.launcher.run(attention, [*arrays, given])
        if merge is None:
            return first, None
        (merged,) = self.launcher.run(merge, [first, *leads, merged_parts])
        return (merged[0], merged[1]) if merged.ndim > q.ndim else (merged, None)

    def _prepared(self, call: _Decoding, packed: TokenRun | None, forms: _Described, arrays: list[Array]) -> _Launches:
        """What the launches of a call are, and the numbers that they are given."""
        import mlx.core as mx

        _check(call)
        kv_heads = call.sides.heads
        group = call.shape[1] // kv_heads
        terms = 0 if packed is None else _terms(packed, call.query)
        set_heads = -(-group // -(-group // _most_heads(terms, call.shape[-1])))
        rows = call.shape[0] * kv_heads * -(-group // set_heads)
        chosen = plan(self.device, counts=call.counts, rows=rows, group=set_heads, terms=terms)
        fresh, firsts, places, column = call.read_from
        given = numbers(
            operands.pair(call.counts[0] - fresh, fresh),
            operands.pair(*firsts),
            operands.pair(chosen.packed_parts, chosen.head_parts),
            operands.pair(chosen.tail_parts, kv_heads),
            operands.pair(operands.bits_of(call.scale), column),
            *places,
        )
        out = mx.float32 if call.apart else call.query
        room = ROOM if fresh else 0
        geometry = _Geometry(
            call.shape, call.sides, set_heads, call.wide, out, call.half, chosen, call.apart, room, call.scored
        )
        key = (geometry, *((form.key, stored[1].dtype) for form, stored in forms))
        if key not in self._kernels:
            self._kernels[key] = self._made(geometry, forms, [array.dtype for array in arrays])
        attention, merge = self._kernels[key]
        return attention, given, merge, numbers(chosen.packed_parts)

    def _made(self, of: _Geometry, forms: _Described, types: list[DType]) -> tuple[Kernel, Kernel | None]:
        """The first launch, every threadgroup one part of one run, and the merge, None where there is one part."""
        import mlx.core as mx

        batch, q_heads, _, _ = of.shape
        chosen, names = of.chosen, ["q_frame"]
        template: list[tuple[str, Any]] = [
            ("K_DIM", of.sides.key_dim),
            ("V_DIM", of.sides.value_dim),
            ("LATENT", int(of.sides.latent)),
            ("Q", of.query),
            ("GROUP", q_heads // of.sides.heads),
            ("GQA", of.set_heads),
            ("MATRIX", chosen.terms),
            ("SIMDS", self.device.simdgroups),
            ("AHEAD", self.device.ahead),
            ("ROOM", of.room),
        ]
        for prefix, (form, stored) in zip("kv", forms, strict=True):
            template += form.arguments(f"{prefix.upper()}_")
            template.append((f"{prefix.upper()}S", stored[1].dtype))
            names += [f"{prefix}_codes", f"{prefix}_scales", f"{prefix}_biases"]
        names.append("recent")
        if of.half is not None:
            names += ["q", "head_k", "head_v", "tail_k", "tail_v"]
            template += [("H", of.half), ("H_CODES", 4 if of.half == mx.bfloat16 else 3)]
        if of.scored:
            names += ["bias", "sinks"]
            template += of.scored
        rows = (batch, q_heads, chosen.parts)
        single = chosen.parts == 1 and of.half is None
        outputs: tuple[tuple[str, tuple[int, ...], DType], ...] = (
            ("partials", (*rows, of.sides.out_dim), mx.float32),
            ("leads", (max(MIN_INPUT_ELEMENTS, 2 * math.prod(rows)),), mx.float32),
        )
        if single:
            outputs = (("out", (*of.shape[:3], of.sides.out_dim), of.out),)
            template.append(("T", of.out))
        entry = "decode_whole" if single else "decode_packed" if of.half is None else "decode"
        first = Kernel(
            entry + (sources.SCORED if of.scored else ""),
            tuple(template),
            (*zip(names, types, strict=True), ("counts", mx.float32)),
            outputs,
            (chosen.parts, of.sides.heads * of.sets, batch),
            32 * self.device.simdgroups,
        )
        return first, None if single else _merge(of)


def _check(call: _Decoding) -> None:
    """Refuse shapes that the kernels do not take."""
    (_, q_heads, length, _), sides, tokens = call.shape, call.sides, sum(call.counts)
    if not 0 < tokens <= MAX_TOKENS:
        raise SpecError(f"Attention over {tokens} tokens.", f"Give 1 to {MAX_TOKENS} tokens.")
    if length != 1 or not (takes(sides.key_dim) and takes(sides.value_dim)):
        raise SpecError(
            f"The fused kernel does not take queries of shape {call.shape} over values of size {sides.value_dim}.",
            f"It takes one token and head sizes that are multiples of {DIM_STEP} up to {MAX_DIM}.",
        )
    if q_heads % sides.heads:
        raise SpecError(
            f"{q_heads} query heads over {sides.heads} KV heads do not suit the fused kernel.",
            "Every KV head must have as many query heads.",
        )


def _merge(of: _Geometry) -> Kernel:
    import mlx.core as mx

    batch, heads, _, _ = of.shape
    dim, out = of.sides.out_dim, (*of.shape[:3], of.sides.out_dim)
    outputs = 2 if of.apart and of.half is not None else 1
    return Kernel(
        "merge",
        (("DIM", dim), ("SIMDS", _MERGE_SIMDGROUPS), ("OUTPUTS", outputs), ("T", of.out)),
        tuple((name, mx.float32) for name in ("partials", "leads", "counts")),
        (("out", (outputs, *out) if outputs > 1 else out, of.out),),
        (-(-dim // _MERGE_CHANNELS), heads, batch),
        32 * _MERGE_SIMDGROUPS,
    )


def _count(run: TokenRun | None) -> int:
    return 0 if run is None else run.count + (0 if run.recent is None else run.recent.count)


def takes(dim: int) -> bool:
    """Whether the kernels take keys, or values, of a head size."""
    return 0 < dim <= MAX_DIM and dim % DIM_STEP == 0


def _terms(run: TokenRun, query: DType) -> int:
    """How many float16 terms hold a query: one for 16-bit types, two for float32; 0 where tiles cannot be.

    Tiles hold codes exactly, but not bfloat16 values.
    """
    import mlx.core as mx

    tiles = isinstance(run.key, PackedSide) and isinstance(run.value, PackedSide)
    return (2 if query == mx.float32 else 1) if tiles else 0


def _most_heads(terms: int, dim: int) -> int:
    """Query heads of a threadgroup at most: those of the matrix body must leave room in threadgroup memory."""
    return min(MAX_SET_HEADS, _MAX_QUERY_HALVES // (8 * terms * dim) * 8) if terms else MAX_SET_HEADS
