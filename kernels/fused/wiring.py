"""Decode attention over a stored cache by the fused kernels, where they can read how it is stored.

The segments of a cache become the kernel's runs of tokens; what the kernels do not take is answered with None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from swarm.kernels.fused import decode
from swarm.kernels.fused.decode import DecodeAttention, DenseSide, PackedSide, TokenRun
from swarm.kernels.fused.plan import Device

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView
    from swarm.kernels.fused.launch import Launcher
    from swarm.kernels.side import SideView

DeviceOf = Callable[[int, int, int], Device]  # of head size, scales per head, query heads per KV head


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
        """Attention output [B, Hq, 1, D] in the queries' type, or None where the kernels do not take the call."""
        spans = None if sinks is not None or view.cache.logit_cap is not None else self._spans(view, queries, mask)
        if spans is None:
            return None
        runs = [_run(view, span) for span in spans]
        at = next((i for i, span in enumerate(spans) if span.packed), None)
        if at is None:
            head, packed, tail = runs[:-1], None, runs[-1:]
        else:
            head, packed, tail = runs[:at], runs[at], runs[at + 1 :]
        batch, heads, _, dim = view.fresh[0].shape
        grouped = (batch, heads, queries.shape[1] // heads, dim)
        framed = None
        if packed is not None and not view.key.codec.identity:
            framed = view.key.codec.query(queries.reshape(grouped)).reshape(queries.shape)
        apart = packed is not None and not view.value.codec.identity
        first, second = self._attention(view, grouped)(
            queries,
            scale,
            packed,
            framed=framed,
            head=head[0] if head else None,
            tail=tail[0] if tail else None,
            apart=apart,
        )
        if not apart:
            return first
        mapped = view.value.codec.output(first.reshape(grouped)).reshape(queries.shape)
        return (mapped if second is None else mapped + second).astype(queries.dtype)

    def _attention(self, view: StoredView, grouped: tuple[int, int, int, int]) -> DecodeAttention:
        """The kernels for a head size, scales per head and query heads per KV head; made once each."""
        _, _, group, dim = grouped
        key = (dim, dim // min(_form_group(side, dim) for side in (view.key, view.value)), group)
        if key not in self._attentions:
            self._attentions[key] = DecodeAttention(self.launcher, self.device_of(*key))
        return self._attentions[key]

    def _spans(self, view: StoredView, queries: Array, mask: Array | str | None) -> list[_Span] | None:
        """The runs of columns in one form each, or None: at most one packed one, with one run before and one behind."""
        batch, q_heads, length, dim = queries.shape
        keys, values = view.fresh
        sides = (view.key, view.value)
        fits = (
            length == 1
            and (mask is None or isinstance(mask, str))
            and dim in decode.HEAD_DIMS
            and values.shape[-1] == dim
            and q_heads <= decode.MAX_GROUP * keys.shape[1]
            and view.offset - view.lowest() <= decode.MAX_TOKENS
            and all(side.part is None and side.codec.block_tokens == 1 for side in sides)
            and all(side.codec.form is not None for side in sides)
        )
        if not fits or batch == 0:
            return None
        if all(side.all_packed for side in sides) and any(_is_packed_form(side) for side in sides):
            return [_Span(view.lowest(), view.offset, True)]
        edges = {view.lowest(), view.offset}
        for side in sides:
            edges |= {edge for low, high, _ in side.spans(view.lowest(), view.offset) for edge in (low, high)}
        ordered = sorted(edges)
        spans = [
            _Span(low, high, any(_is_packed(side, low, high) for side in sides)) for low, high in pairwise(ordered)
        ]
        kinds = "".join("p" if span.packed else "d" for span in spans)
        return spans if kinds in ("p", "d", "dp", "pd", "dd", "dpd") else None


def _is_packed(side: SideView, low: int, high: int) -> bool:
    return _is_packed_form(side) and [kind for _, _, kind in side.spans(low, high)] == ["packed"]


def _is_packed_form(side: SideView) -> bool:
    form = side.codec.form
    return form is not None and form.meta > 0


def _form_group(side: SideView, dim: int) -> int:
    form = side.codec.form
    return dim if form is None else form.group


def _run(view: StoredView, span: _Span) -> TokenRun:
    key, value = (_source(side, span.low, span.high) for side in (view.key, view.value))
    return TokenRun(key, value, span.high - span.low)


def _source(side: SideView, low: int, high: int) -> PackedSide | DenseSide:
    if not side.all_packed and [kind for _, _, kind in side.spans(low, high)] == ["half"]:
        return DenseSide(side.half(low, high))
    form = side.codec.form
    if form is None:
        raise TypeError("a stored format without a packed form")
    parts, front = side.side.store.arrays()
    first = front + low - side.side.packed_first
    return PackedSide(form, parts, first) if form.meta > 0 else DenseSide(parts[form.codes_name], first)
