"""Decode attention over a stored cache by the fused kernels, where they can read how it is stored.

The segments of a cache become the kernel's runs of tokens; what the kernels do not take is answered with None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from swarm.kernels import arrays
from swarm.kernels.errors import SpecError
from swarm.kernels.fused import decode, operands
from swarm.kernels.fused.decode import DecodeAttention, Reading
from swarm.kernels.fused.operands import DenseSide, Frame, PackedSide, Scoring, TokenRun
from swarm.kernels.fused.plan import Device
from swarm.kernels.fused.recent import Recent, RecentSide
from swarm.kernels.visibility import MASKED

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView
    from swarm.kernels.fused.launch import Launcher
    from swarm.kernels.side import CacheSide, SideView

DeviceOf = Callable[[int, int, int], Device]  # of head size, bytes of scales per head, query heads of a threadgroup


@dataclass(frozen=True)
class _Span:
    low: int
    high: int
    packed: bool


class FusedDecode:
    """Attention of one query token over a view, on one kind of device."""

    def __init__(self, launcher: Launcher, device_of: DeviceOf) -> None:
        self.launcher = launcher
        self.device_of = device_of
        self._attentions: dict[tuple[int, int, int], DecodeAttention] = {}

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array | None:
        """Attention output [B, Hq, 1, Dv] in the queries' type, or None where the kernels do not take the call."""
        import mlx.core as mx

        if mask is None and sinks is None:
            recent, low = _newest(view), view.lowest()
            reading = None if recent is None else recent.reading
            if reading is not None and reading.takes(queries, scale, low):
                framed = _framed(view.key, view, queries) if reading.mapped else None
                tail = (view.key.side.tail, view.value.side.tail) if reading.tail else ()
                return _summed(view.value, view, queries, reading(queries, framed, recent, low, tail), reading.apart)
        read = _columns(view, queries, mask)
        if read is None or queries.shape[2] != 1 or queries.shape[-1] != view.key.codec.head_dim:
            return None
        spans = self._spans(view, read[0])
        if spans is None or (queries.dtype == mx.float32 and any(_rounds(view, span) for span in spans)):
            return None
        plain = view.cache.logit_cap is None and read[1] is None and sinks is None
        scoring = operands.PLAIN if plain else Scoring(view.cache.logit_cap, read[1], sinks)
        return self._computed(view, spans, (queries, None), scale, scoring, view.value)

    def takes_aligned(self, sides: Sequence[CacheSide]) -> bool:
        """Whether the kernels read sides of a layer whose sequences begin at different tokens."""
        even = all(side.is_even and _is_taken(side) for side in sides)
        alike = len({(side.sinks, side.residual) for side in sides}) == 1
        return even and alike and any(_is_packed_form(side) for side in sides)

    def takes_latent(self, view: StoredView) -> bool:
        """Whether `attend_latent` takes a view of one more token."""
        return self._spans(view, view.lowest()) is not None

    def attend_latent(self, view: StoredView, queries: Array, rotary: Array, scale: float) -> Array:
        """Attention output [B, Hq, 1, D] over latents of D channels, the keys of the view, that are values as well.

        The values of the view are the rest of the keys, which `rotary` [B, Hq, 1, R] meets.

        Raises:
            SpecError: the kernels do not take the view.
        """
        import mlx.core as mx

        spans = self._spans(view, view.lowest())
        if spans is None:
            raise SpecError("The fused kernel does not take these latents.", "Ask takes_latent first.")
        parts = [queries, rotary.astype(queries.dtype)]
        framed = None
        if any(span.packed for span in spans) and not (view.key.codec.identity and view.value.codec.identity):
            sides = (view.key, view.value)
            mapped = [_framed(side, view, part) for side, part in zip(sides, parts, strict=True)]
            framed = mx.concatenate(mapped, axis=-1)
        scoring = Scoring(view.cache.logit_cap)
        return self._computed(
            view, spans, (mx.concatenate(parts, axis=-1), framed), scale, scoring, view.key, latent=True
        )

    def _computed(
        self,
        view: StoredView,
        spans: list[_Span],
        queries: tuple[Array, Array | None],
        scale: float,
        scoring: Scoring,
        values: SideView,
        *,
        latent: bool = False,
    ) -> Array:
        """Attention over the runs of a view, of queries as they are and in the frame of packed keys."""
        plain, framed = queries
        group = plain.shape[1] // view.fresh[0].shape[1]
        frames = (None, None) if latent else _frames(view, group, scoring)
        runs = [_run(view, span, frames) for span in spans]
        at = next((i for i, span in enumerate(spans) if span.packed), None)
        if at is None:
            head, packed, tail = runs[:-1], None, runs[-1:]
        else:
            head, packed, tail = runs[:at], runs[at], runs[at + 1 :]
        apart = packed is not None and not values.codec.identity
        if packed is not None and not latent:  # what the kernel does not map itself
            if not view.key.codec.identity and operands.frame_of(packed.key) is None:
                framed = _framed(view.key, view, plain)
            apart = apart and operands.frame_of(packed.value) is None
        kind = None if framed is None else framed.dtype
        attention = self._attention(view, group)
        around = (head[0] if head else None, tail[0] if tail else None)
        low = spans[0].low
        reading = Reading(attention, plain, scale, packed, kind, around, apart, scoring, latent, low)
        recent = None if packed is None else packed.recent
        if recent is not None and scoring.plain and not latent:
            recent.reading = reading  # for further tokens
        return _summed(values, view, plain, reading(plain, framed, recent, low), apart)

    def _attention(self, view: StoredView, group: int) -> DecodeAttention:
        """The kernels for the larger head size, bytes of scales and query heads of a threadgroup; made once each."""
        dims = view.key.codec.head_dim, view.value.codec.head_dim
        scales = max(_scale_bytes(view.key), _scale_bytes(view.value))
        key = (max(dims), scales, min(group, decode.MAX_SET_HEADS))
        if key not in self._attentions:
            self._attentions[key] = DecodeAttention(self.launcher, self.device_of(*key))
        return self._attentions[key]

    def _spans(self, view: StoredView, lowest: int) -> list[_Span] | None:
        """The runs of columns in one form each, or None: at most one packed one, with one run before and one behind."""
        key, value = sides = (view.key, view.value)
        fits = 0 < view.offset - lowest <= decode.MAX_TOKENS and _is_taken(key) and _is_taken(value)
        if not fits or view.fresh[0].shape[0] == 0:
            return None
        if key.all_packed and value.all_packed and (_is_packed_form(key) or _is_packed_form(value)):
            return [_Span(lowest, view.offset, True)]
        edges = {lowest, view.offset}
        for side in sides:
            edges |= {edge for low, high, _ in side.spans(lowest, view.offset) for edge in (low, high)}
        spans: list[_Span] = []
        for low, high in pairwise(sorted(edges)):
            # While keys wait in 16 bit for the last token of their block, values of the same tokens may be packed.
            waits = any(_is_packed_form(side) and not _is_packed(side, low, high) for side in sides)
            packed = not waits and any(_is_packed(side, low, high) for side in sides)
            if spans and waits and not spans[-1].packed and spans[-1].low >= max(side.side.sinks for side in sides):
                spans[-1] = _Span(spans[-1].low, high, packed)
            else:
                spans.append(_Span(low, high, packed))
        kinds = "".join("p" if span.packed else "d" for span in spans)
        return spans if kinds in ("p", "d", "dp", "pd", "dd", "dpd") else None


def _columns(view: StoredView, queries: Array, mask: Array | str | None) -> tuple[int, Array | None] | None:
    """The first column that is read and what is added to logits, None for a mask that the kernels do not take.

    Columns before those of a mask are hidden. One query token sees all others: order hides nothing from it.
    """
    import mlx.core as mx

    if mask is None or isinstance(mask, str):
        return view.lowest(), None
    batch, q_heads = queries.shape[:2]
    bias: Array = mask[None, None] if mask.ndim == 2 else mask
    if bias.ndim != 4 or bias.shape[0] not in (1, batch) or bias.shape[1] not in (1, q_heads) or bias.shape[2] != 1:
        return None
    if bias.dtype == mx.bool_:
        bias = mx.where(bias, 0.0, MASKED)
    return max(view.lowest(), view.offset - bias.shape[-1]), bias


def _is_taken(side: SideView | CacheSide) -> bool:
    codec = side.codec
    return codec.form is not None and side.part is None and decode.takes(codec.head_dim)


def _framed(side: SideView, view: StoredView, queries: Array) -> Array:
    """Queries [B, Hq, 1, D] in the frame of a side's packed vectors."""
    batch, heads = view.fresh[0].shape[:2]
    grouped = queries.reshape(batch, heads, queries.shape[1] // heads, queries.shape[-1])
    return side.codec.query(grouped).reshape(queries.shape)


def _summed(side: SideView, view: StoredView, queries: Array, found: tuple[Array, Array | None], apart: bool) -> Array:
    """The output of what a side's packed values, in a frame of their own if `apart`, and 16-bit ones gave."""
    first, second = found
    if not apart:
        return first
    batch, heads = view.fresh[0].shape[:2]
    grouped = (batch, heads, first.shape[1] // heads, first.shape[-1])
    mapped = side.codec.output(first.reshape(grouped)).reshape(first.shape)
    return (mapped if second is None else mapped + second).astype(queries.dtype)


def _newest(view: StoredView) -> Recent | None:
    """The packed tokens of both sides that are not in the stores yet, if they are as the view shows them."""
    sides = view.key.side, view.value.side
    key, value = sides[0].store.recent, sides[1].store.recent
    if isinstance(key, RecentSide) and isinstance(value, RecentSide) and key.index != value.index:
        recent = key.of
        if recent is value.of and sides[0].offset == view.offset and sides[0].encoded == sides[1].encoded:
            return recent
    return None


def _is_packed(side: SideView, low: int, high: int) -> bool:
    return _is_packed_form(side) and [kind for _, _, kind in side.spans(low, high)] == ["packed"]


def _is_packed_form(side: SideView | CacheSide) -> bool:
    form = side.codec.form
    return form is not None and form.meta > 0


def _scale_bytes(side: SideView) -> int:
    form = side.codec.form
    return 0 if form is None else form.scale_bytes(side.codec.head_dim)


def _run(view: StoredView, span: _Span, frames: tuple[Frame | None, Frame | None]) -> TokenRun:
    recent = _recent(view, span) if span.packed else None
    key = _source(view.key, span.low, span.high, span.packed, frames[0])
    value = _source(view.value, span.low, span.high, span.packed, frames[1])
    count = span.high - span.low - (0 if recent is None else recent.count)
    return TokenRun(key, value, count, recent, view.starts)


def _recent(view: StoredView, span: _Span) -> Recent | None:
    """The packed tokens at the end of a span that are not in the stores.

    They are moved there where the kernel could not read keys and values so.
    """
    stores = view.key.side.store, view.value.side.store
    if all(store.recent is None for store in stores):
        return None
    recent = _newest(view)
    if recent is not None and span.high == view.key.encoded and recent.count <= span.high - span.low:
        return recent
    for store in stores:
        store.settle()
    return None


def _frames(view: StoredView, group: int, scoring: Scoring) -> tuple[Frame | None, Frame | None]:
    """The frames into which kernels map queries, and from which outputs; of `group` query heads per KV head.

    Where each sequence begins, what is added to scores, and factors of keys are one buffer too many for Metal.
    """
    many = min(group, decode.MAX_SET_HEADS) * view.key.codec.head_dim > decode.MAX_FRAMED
    full = view.starts is not None and not scoring.plain
    return None if many or full else _frame(view.key), _frame(view.value)


def _frame(side: SideView) -> Frame | None:
    import mlx.core as mx

    frame = side.codec.frame
    return None if frame is None else Frame(frame[0], arrays.constant(mx, frame[1]))


def _rounds(view: StoredView, span: _Span) -> bool:
    """Whether packed columns of a span are read in 16 bit."""
    sides = (view.key, view.value)
    return not span.packed and any("packed" in [kind for _, _, kind in s.spans(span.low, span.high)] for s in sides)


def _in_16_bit(side: SideView, low: int, high: int) -> Array:
    """Columns of which the first are packed, decoded: fewer than a block of the other side."""
    import mlx.core as mx

    parts = []
    for start, stop, kind in side.spans(low, high):
        if kind == "half":
            parts.append(side.half(start, stop))
        else:
            parts.append(side.codec.output(side.packed(mx, start, stop)).astype(mx.float16))
    return mx.concatenate([part.astype(parts[-1].dtype) for part in parts], axis=2)


def _source(side: SideView, low: int, high: int, packed: bool, frame: Frame | None) -> PackedSide | DenseSide:
    if not (packed and side.all_packed):
        kinds = [kind for _, _, kind in side.spans(low, high)]
        if kinds == ["half"]:
            return DenseSide(side.half(low, high))
        if not packed and _is_packed_form(side):
            return DenseSide(_in_16_bit(side, low, high))
    form = side.codec.form
    if form is None:
        raise TypeError("a stored format without a packed form")
    parts, front = side.side.store.arrays()
    first = front * side.codec.block_tokens + low - side.side.packed_first
    return PackedSide(form, parts, first, frame) if form.meta > 0 else DenseSide(parts[form.codes_name], first)
