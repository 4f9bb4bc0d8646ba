"""Decode attention of one query token per sequence over packed, and a few 16-bit, keys and values.

The caller says which columns a query sees. Two launches: parts of the context, then their merge; one where a single
part is enough. Memory beside the output depends on the number of parts, never on the context.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from swarm.kernels.errors import SpecError
from swarm.kernels.fused import operands, recent
from swarm.kernels.fused.decode_kernels import Described, Geometry, Sides, Turn, kernels_of
from swarm.kernels.fused.launch import Array, DType, Kernel, Launcher, numbers
from swarm.kernels.fused.operands import PackedSide, Scoring, TokenRun
from swarm.kernels.fused.plan import Device, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.kernels.fused.recent import Recent

DIM_STEP, MAX_DIM = 16, 512  # head sizes, of keys and of values: multiples of the one up to the other
MAX_FRAMED = 2048  # numbers of queries that a threadgroup maps into the frame of keys
MAX_SET_HEADS = 16  # query heads of a KV head that one threadgroup works on
MAX_TOKENS = 1 << 30
_MAX_QUERY_HALVES = 9216  # float16 numbers of queries in threadgroup memory: 16 heads of 512 + 64 channels
_MAX_REMEMBERED = 256  # launches of calls that are alike, and kinds of calls


class _Decoding(NamedTuple):
    """What calls of layers of one shape have in common, step after step, besides the formats."""

    shape: tuple[int, ...]  # of the queries
    sides: Sides
    query: DType
    wide: DType  # the type in which they meet keys
    half: DType | None  # of the 16-bit runs
    around: tuple[int, int]  # 16-bit tokens before and behind the packed ones
    places: tuple[int, ...]  # the numbers of the 16-bit runs
    columns: int  # of the bias, 0 without
    scale: float
    apart: bool
    scored: tuple[tuple[str, Any], ...]
    aligned: bool
    frames: tuple[Turn | None, Turn | None]


class _Range(NamedTuple):
    """What changes from step to step: packed tokens, how many of them are recent, the first of keys and values."""

    packed: int
    recent: int
    first_key: int
    first_value: int


_Launches = tuple[
    Kernel, Array, Kernel | None, Array
]  # attention and the merge, each with the numbers that it is given


class Reading:
    """Attention of one layer as long as only recent tokens come in: the same arrays, looked at once.

    It holds the arrays of the stores: whoever keeps it drops it when they become others. It does not hold the recent
    tokens, which hold it: those arrays would then be freed only when the garbage collector comes round.
    """

    def __init__(
        self,
        attention: DecodeAttention,
        q: Array,
        scale: float,
        packed: TokenRun | None,
        framed: DType | None,
        around: tuple[TokenRun | None, TokenRun | None],
        apart: bool,
        scoring: Scoring,
        latent: bool,
        low: int = 0,
    ) -> None:
        """For queries like q [B, Hq, 1, Dk], mapped ones of type `framed`, 16-bit runs before and behind.

        `low` is the first column that the runs hold.

        Raises:
            SpecError: no run at all.
        """
        head, tail = around
        run = packed or head or tail
        if run is None:
            raise SpecError("Attention over 0 tokens.", f"Give 1 to {MAX_TOKENS} tokens.")
        self._attention = attention
        self._terms = 0 if packed is None else _terms(packed, q.dtype)
        self._low = low
        second = operands.dim_of(run.value)
        sides = Sides(operands.codes_of(run.key).shape[1], q.shape[-1] - second * latent, second, latent)
        key, value = (packed.key, packed.value) if packed else (operands.nothing(), operands.nothing())
        self._forms = (operands.described(key, sides.key_dim), operands.described(value, sides.value_dim))
        self._stored = (*self._forms[0][1], *self._forms[1][1])
        self._settled = 0 if packed is None else packed.count
        self._firsts = (packed.key.first, packed.value.first) if packed else (0, 0)
        half, places = None, operands.NOWHERE
        self._dense: list[Array] = []
        if head or tail:
            half, self._dense, places = operands.dense(head, tail)
        starts = None if packed is None else packed.starts
        self._starts = [] if starts is None else [starts]
        scored, self._scores = ((), []) if scoring.plain else operands.scored(scoring, (q.shape[0], q.shape[1]))
        self.mapped, self.apart = framed is not None, apart
        self._wide = q.dtype if framed is None else framed  # mapped queries stay precise
        columns = 0 if scoring.bias is None else scoring.bias.shape[-1]
        self.tail, self._fixed = _count(tail), head is not None
        counts = (_count(head), self.tail)
        frames = operands.frame_of(key), operands.frame_of(value)
        self._factors = [None if frame is None else frame.factors for frame in frames]
        turns = (_turn(frames[0]), _turn(frames[1]))
        kinds = q.dtype, self._wide, half
        self._call = _Decoding(
            q.shape, sides, *kinds, counts, places, columns, scale, apart, scored, starts is not None, turns
        )
        self._launches = attention.launches_of(self._call, self._forms)

    def behind(self, tokens: int) -> Reading:
        """The same once so many recent tokens are in the arrays of the stores, which have not become others."""
        other = copy.copy(self)
        other._settled += tokens
        return other

    def takes(self, q: Array, scale: float, low: int) -> bool:
        """Whether it can read for these queries, from the column `low` on."""
        made, near = self._call, low == self._low or (low > self._low and not self._fixed)
        return bool(near and q.shape == made.shape and q.dtype == made.query and scale == made.scale)

    def __call__(
        self, q: Array, framed: Array | None, recent: Recent | None, low: int, tail: Sequence[Array] = ()
    ) -> tuple[Array, Array | None]:
        """What `DecodeAttention` returns, from the column `low` on; `recent` are the last packed tokens.

        `tail`: the 16-bit keys and values behind them [B, H, `self.tail`, D], where they have become others.
        """
        array, fresh = operands.recent_of(recent)
        later = low - self._low
        read = _Range(self._settled + fresh - later, fresh, self._firsts[0] + later, self._firsts[1] + later)
        wide = q if q.dtype == self._wide else q.astype(self._wide)
        arrays = [wide if framed is None else framed, *self._stored, array, *self._starts]
        if self._dense:
            half = self._call.half
            arrays += [wide, *self._dense[: 4 - len(tail)], *(x if x.dtype == half else x.astype(half) for x in tail)]
        arrays += self._scores
        if self._factors[0] is not None:
            arrays.append(self._factors[0])
        launches = self._launches.get(read)
        if launches is None:  # the first layer of a step; the others are alike
            if len(self._launches) >= _MAX_REMEMBERED:
                self._launches.clear()
            prepared = self._attention.prepared(self._call, read, self._terms, self._forms, arrays)
            launches = self._launches[read] = prepared
        attention, given, merge, merged_parts = launches
        arrays.append(given)
        run = self._attention.launcher.run
        first, *leads = run(attention, arrays)
        if merge is None:
            return first, None
        factors = [] if self._factors[1] is None else [self._factors[1]]
        (merged,) = run(merge, [first, *leads, *factors, merged_parts])
        return (merged[0], merged[1]) if merged.ndim > q.ndim else (merged, None)


class DecodeAttention:
    """softmax(scale * q K^T) V for one query token, K and V in up to three runs: 16 bit, packed, 16 bit."""

    def __init__(self, launcher: Launcher, device: Device) -> None:
        self.launcher = launcher
        self.device = device
        self._kernels: dict[tuple[object, ...], tuple[Kernel, Kernel | None]] = {}
        self._launches: dict[tuple[object, ...], dict[_Range, _Launches]] = {}

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
        kind = None if framed is None else framed.dtype
        reading = Reading(self, q, scale, packed, kind, (head, tail), apart, scoring, latent)
        return reading(q, framed, None if packed is None else packed.recent, 0)

    def launches_of(self, call: _Decoding, forms: Described) -> dict[_Range, _Launches]:
        """The launches of calls that are alike, by what each of them read; readings of alike layers share them."""
        key = (call, *((form.key, stored[1].dtype) for form, stored in forms))
        if key not in self._launches:
            if len(self._launches) >= _MAX_REMEMBERED:
                self._launches.clear()
            self._launches[key] = {}
        return self._launches[key]

    def prepared(self, call: _Decoding, read: _Range, terms: int, forms: Described, arrays: list[Array]) -> _Launches:
        """What the launches of a call are, whose queries take so many `terms`, and the numbers that they are given."""
        import mlx.core as mx

        counts = (read.packed, *call.around)
        _check(call, sum(counts))
        kv_heads = call.sides.heads
        group = call.shape[1] // kv_heads
        set_heads = -(-group // -(-group // _most_heads(terms, call.shape[-1])))
        rows = call.shape[0] * kv_heads * -(-group // set_heads)
        chosen = plan(self.device, counts=counts, rows=rows, group=set_heads, terms=terms)
        column = (
            call.columns - sum(counts) + counts[1] if call.columns else 0
        )  # of the bias, for the first packed token
        given = numbers(
            operands.pair(read.packed - read.recent, read.recent),
            operands.pair(read.first_key, read.first_value),
            operands.pair(chosen.packed_parts, chosen.head_parts),
            operands.pair(chosen.tail_parts, kv_heads),
            operands.pair(operands.bits_of(call.scale), column),
            *call.places,
        )
        out = mx.float32 if call.apart else call.query
        room = recent.ROOM if read.recent else 0
        geometry = Geometry(
            call.shape,
            call.sides,
            set_heads,
            call.wide,
            out,
            call.half,
            chosen,
            call.apart,
            room,
            call.scored,
            call.aligned,
            call.frames,
        )
        key = (geometry, *((form.key, stored[1].dtype) for form, stored in forms))
        if key not in self._kernels:
            self._kernels[key] = kernels_of(self.device, geometry, forms, [array.dtype for array in arrays])
        attention, merge = self._kernels[key]
        return attention, given, merge, numbers(chosen.packed_parts)


def _check(call: _Decoding, tokens: int) -> None:
    """Refuse shapes that the kernels do not take."""
    (_, q_heads, length, _), sides = call.shape, call.sides
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


def _turn(frame: operands.Frame | None) -> Turn | None:
    return None if frame is None else Turn(frame.order, frame.factors.shape[1] if frame.factors.shape[0] > 1 else 0)


def _count(run: TokenRun | None) -> int:
    return 0 if run is None else run.count


def takes(dim: int) -> bool:
    """Whether the kernels take keys, or values, of a head size."""
    return 0 < dim <= MAX_DIM and dim % DIM_STEP == 0


def _terms(run: TokenRun, query: DType) -> int:
    """How many float16 terms hold a query: one for 16-bit types, two for float32; 0 where tiles cannot be.

    Tiles hold codes exactly, but not bfloat16 values, nor to float32 what comes with its scales.
    """
    import mlx.core as mx

    if not (isinstance(run.key, PackedSide) and isinstance(run.value, PackedSide)):
        return 0
    if query != mx.float32:
        return 1
    return 0 if run.key.form.decodes_whole or run.value.form.decodes_whole else 2


def _most_heads(terms: int, dim: int) -> int:
    """Query heads of a threadgroup at most: those of the matrix body must leave room in threadgroup memory."""
    return min(MAX_SET_HEADS, _MAX_QUERY_HALVES // (8 * terms * dim) * 8) if terms else MAX_SET_HEADS
