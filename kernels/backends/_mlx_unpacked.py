"""Attention of a chunk of a prompt on an accelerator: stored columns unpacked to 16 bit, then MLX's fused attention.

A layer is unpacked a few heads at a time into memory that a setting bounds and that the next heads use again, whatever
the context. The device always has work ahead: what is waited for, where memory is short, is the step before the last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.kernels.visibility import MASKED

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView
    from swarm.kernels.side import SideView

MAX_UNPACKED_BYTES = 1 << 30  # of unpacked keys and values on the device, what unpacking needs on the way included
MAX_STEPS_AHEAD = 4  # that the device is given before the first of them is waited for
MAX_MASK_ELEMENTS = 1 << 28  # of an array that says which columns each query reads
MAX_SCORES = 1 << 27  # held at a time where MLX has no fused kernel and writes them out
# Of keys and of values alike, that MLX's fused attention takes for several queries, on CUDA and on Metal.
FUSED_HEAD_DIMS = (64, 80, 128)

Columns = list[tuple[int, int, str, str]]  # runs of columns: first, last + 1, form of the keys, form of the values


def attend(
    view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
) -> Array | None:
    """Attention output [B, Hq, L, D of the values] in the queries' type, or None where columns do not fit the bounds.

    `sinks` [Hq] are learned logits that take part in every softmax without a value. None as well for methods that
    estimate products without decoding vectors of the head's size.
    """
    import mlx.core as mx

    batch, q_heads, length, dim = queries.shape
    heads = view.fresh[0].shape[1]
    repeats = q_heads // heads
    sides = (view.key, view.value)
    low, high = view.lowest(), view.offset
    columns = _columns(sides, low, high)
    seen = _seen(view, columns, mask, length)
    together = _heads_at_once(view, high - low, queries.dtype.size, batch)
    if seen is None or not together or any(not side.codec.decodes for side in sides):
        return None
    grouped = queries.reshape(batch, heads, repeats * length, dim)
    framed = view.key.codec.query(grouped).astype(queries.dtype).reshape(batch, heads * repeats, length, dim)
    cap = view.cache.logit_cap
    fused = cap is None and _fused(view, queries)
    outputs: list[Array] = []
    for first in range(0, heads, together):
        some = slice(first, first + together)
        q = framed[:, first * repeats : some.stop * repeats]
        # Heads are unpacked one after another, not all at once at the start of the step.
        after = outputs[-1] if outputs else q
        k, v = (_unpacked(side, forms, some, after) for side, forms in zip(sides, _forms(columns), strict=True))
        rows = length if fused else max(1, MAX_SCORES // (batch * q.shape[1] * k.shape[2]))
        learned = None if sinks is None else sinks[first * repeats : some.stop * repeats]
        scoring = _Scoring(scale, cap, learned)
        edges = [(start, min(start + rows, length)) for start in range(0, length, rows)]
        mine = seen if isinstance(seen, str) or seen.shape[1] == 1 else seen[:, first * repeats : some.stop * repeats]
        parts = [_attend(q, k, v, scoring, mine, edge) for edge in edges]
        outputs.append(parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2))
        _bounded(outputs[-1], (k.nbytes + v.nbytes) * _with_transients(view, queries.dtype.size))
    out = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=1)
    mapped = view.value.codec.output(out.reshape(batch, heads, repeats * length, -1))
    return mapped.astype(queries.dtype).reshape(batch, q_heads, length, -1)


def _columns(sides: tuple[SideView, SideView], low: int, high: int) -> Columns:
    """Runs of columns in one form each. Where some queries read 16 bit and others packed, a run comes in each form."""
    edges = sorted({low, high, *(edge for side in sides for a, b, _ in side.spans(low, high) for edge in (a, b))})
    runs: Columns = []
    for start, stop in pairwise(edges):
        forms = [side.spans(start, stop)[0][2] for side in sides]
        key, value = (("packed", "half") if form == "both" else (form,) for form in forms)
        runs += [(start, stop, k, v) for k in key for v in value]
    return runs


def _forms(columns: Columns) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    return [(a, b, key) for a, b, key, _ in columns], [(a, b, value) for a, b, _, value in columns]


def _seen(view: StoredView, columns: Columns, mask: Array | str | None, length: int) -> Array | str | None:
    """What MLX is given as mask ("" for none), None where it would be too large.

    An array is [B or 1, Hq or 1, L or 1, columns], with a column for each of every run.
    """
    import mlx.core as mx

    total = sum(stop - start for start, stop, *_ in columns)
    single = total == view.offset - view.lowest()
    # Whether the last query does not see the first column; a mask of the model's own says that itself.
    limited = (mask is None or isinstance(mask, str)) and view.cache.first_seen(view.offset - 1) > 0
    if single and (mask is None or isinstance(mask, str)) and not limited:
        return mask or ""
    if length * total > MAX_MASK_ELEMENTS:
        return None
    own = None if mask is None or isinstance(mask, str) else _of_columns(mask, columns, view.offset)
    if own is not None and single and not limited:
        return own
    query = np.arange(view.start, view.offset)[:, None]
    parts = []
    for start, stop, *forms in columns:
        column = np.arange(start, stop)[None]
        allowed = column <= query if isinstance(mask, str) else np.ones((length, stop - start), np.bool_)
        if limited:
            allowed &= column >= view.cache.first_seen(query)
        for side, form in zip((view.key, view.value), forms, strict=True):
            if side.spans(start, stop)[0][2] == "both":
                until = np.array([side.packed_until(int(position)) for position in query[:, 0]])[:, None]
                allowed &= column < until if form == "packed" else column >= until
        parts.append(allowed)
    seen: Array = mx.array(np.concatenate(parts, axis=1))[None, None]
    if own is None:
        return seen
    return own & seen if own.dtype == mx.bool_ else mx.where(seen, own, MASKED)


def _of_columns(mask: Array, columns: Columns, offset: int) -> Array:
    """A model's own mask, right-aligned with the columns before `offset`, for the columns of every run.

    Columns before those of the mask are hidden.
    """
    import mlx.core as mx

    mask = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    first = offset - mask.shape[-1]
    missing = max(0, first - columns[0][0])
    if missing:
        hidden = False if mask.dtype == mx.bool_ else MASKED
        mask = mx.pad(mask, [(0, 0)] * 3 + [(missing, 0)], constant_values=mx.array(hidden, mask.dtype))
        first -= missing
    parts = [mask[..., start - first : stop - first] for start, stop, *_ in columns]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _heads_at_once(view: StoredView, columns: int, itemsize: int, batch: int) -> int:
    """KV heads that are unpacked together, half of what may be there at a time; 0 where not even one fits."""
    heads, channels = view.fresh[0].shape[1], sum(x.shape[-1] for x in view.fresh)
    nbytes = batch * columns * channels * itemsize * _with_transients(view, itemsize)
    return int(min(heads, max(MAX_UNPACKED_BYTES // 2 // nbytes, nbytes <= MAX_UNPACKED_BYTES)))


def _with_transients(view: StoredView, itemsize: int) -> int:
    """How many times its size an unpacked layer needs while it is made."""
    most = max(side.codec.quantizer.transient_bytes for side in (view.key, view.value))
    return 1 + -(-most // itemsize)


_in_flight: deque[tuple[Array, int]] = deque()  # what the device was given to compute, and the memory that it needs


def _bounded(out: Array, nbytes: int) -> None:
    """Start computing, and wait for what was started before where all of it together needs more memory than it may."""
    import mlx.core as mx

    mx.async_eval(out)  # type: ignore[no-untyped-call]
    _in_flight.append((out, nbytes))
    while len(_in_flight) > MAX_STEPS_AHEAD or sum(size for _, size in _in_flight) > max(nbytes, MAX_UNPACKED_BYTES):
        mx.eval(_in_flight.popleft()[0])


def _unpacked(side: SideView, forms: list[tuple[int, int, str]], heads: slice, after: Array) -> Array:
    """Columns [B, h, T, D] of some heads in the codec's frame and the type of `after`, unpacked once that is there."""
    import mlx.core as mx

    parts = []
    for start, stop, form in forms:
        if form == "half":
            parts.append(side.codec.framed(side.half(start, stop), heads).astype(after.dtype))
        else:
            parts.append(side.dense(start, stop, heads, after))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def _fused(view: StoredView, queries: Array) -> bool:
    """Whether MLX computes this attention in one kernel, without writing scores out."""
    import mlx.core as mx

    dims = [view.key.codec.head_dim, view.value.codec.head_dim]
    known = dims[0] == dims[1] and dims[0] in FUSED_HEAD_DIMS
    return known and queries.dtype != mx.float32 and mx.default_device() == mx.Device(mx.gpu)


@dataclass(frozen=True, eq=False)
class _Scoring:
    """How logits come from products, and the learned sinks [h Hq / H] of the heads at hand."""

    scale: float
    cap: float | None
    sinks: Array | None


def _attend(q: Array, k: Array, v: Array, scoring: _Scoring, seen: Array | str, rows: tuple[int, int]) -> Array:
    """Attention of some of the queries; in causal order without the columns behind the last of them."""
    import mlx.core as mx

    start, stop = rows
    hidden = q.shape[2] - stop if isinstance(seen, str) and seen else 0
    mask = (seen or None) if isinstance(seen, str) else _rows(seen, rows, q.dtype)
    k, v = (x[:, :, : x.shape[2] - hidden] for x in (k, v))
    q = q[:, :, start:stop]
    if scoring.cap is not None:
        return _capped(q, k, v, scoring, scoring.cap, mask)
    sinks = None if scoring.sinks is None else scoring.sinks.astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scoring.scale, mask=mask, sinks=sinks)


def _rows(seen: Array, rows: tuple[int, int], dtype: Any) -> Array:
    """The rows of a mask; what it adds is of a type, and finite, since a query may see nothing at all."""
    import mlx.core as mx

    part = seen if seen.shape[2] == 1 else seen[:, :, rows[0] : rows[1]]
    return part if part.dtype == mx.bool_ else mx.maximum(part, mx.finfo(dtype).min).astype(dtype)


def _capped(q: Array, k: Array, v: Array, scoring: _Scoring, cap: float, mask: Array | str | None) -> Array:
    """Attention whose logits are cap * tanh(logit / cap), in operations: MLX's fused attention has no cap."""
    import mlx.core as mx

    batch, q_heads, length, _ = q.shape
    heads, columns = k.shape[1:3]
    grouped = (batch, heads, q_heads // heads, length)
    scores = (q * scoring.scale).reshape(*grouped, -1) @ k[:, :, None].swapaxes(-1, -2)
    scores = cap * mx.tanh(scores.astype(mx.float32) / cap)
    if isinstance(mask, str):
        mask = (mx.arange(columns)[None] <= mx.arange(columns - length, columns)[:, None])[None, None]
    if mask is not None:
        mask = mask.reshape(mask.shape[0], *((heads, -1) if mask.shape[1] > 1 else (1, 1)), *mask.shape[2:])
        scores = mx.where(mask, scores, MASKED) if mask.dtype == mx.bool_ else scores + mask
    if scoring.sinks is not None:
        learned = scoring.sinks.astype(mx.float32).reshape(1, heads, -1, 1, 1)
        scores = mx.concatenate([mx.broadcast_to(learned, (*grouped, 1)), scores], axis=-1)
    shares = mx.softmax(scores, axis=-1)[..., scores.shape[-1] - columns :]
    return (shares.astype(v.dtype) @ v[:, :, None]).reshape(batch, q_heads, length, -1)
