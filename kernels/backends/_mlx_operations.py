"""Attention over a packed cache in MLX operations: chunks of columns, online softmax, for back-ends without a kernel.

The view says which columns are held in which form and which queries see them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels.visibility import MASKED, Visibility

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView
    from swarm.kernels.side import SideView

CHUNK_COLUMNS = 4096  # columns unpacked at a time, at most
MAX_SCORES = 1 << 25  # scores held at a time


def attend(
    view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
) -> Array:
    """Attention output [B, Hq, L, D of the values] in the queries' type, accumulated in float32.

    `sinks` [Hq] are learned logits that take part in every softmax without a value.
    """
    import mlx.core as mx

    batch, q_heads, length, dim = queries.shape
    heads = view.fresh[0].shape[1]
    repeats = q_heads // heads
    plain = (queries.astype(mx.float32) * scale).reshape(batch, heads, repeats * length, dim)
    framed = view.key.codec.query(plain)
    known = None if view.key.part is None else view.key.part.features(plain)
    visible = Visibility(view, mask, (heads, repeats))
    grid = (batch, heads, repeats, length)
    peak = mx.full((batch, heads, repeats * length, 1), MASKED)
    weight = mx.zeros_like(peak)
    if sinks is not None:
        learned = mx.repeat(sinks.astype(mx.float32).reshape(heads, repeats), length, axis=1)
        peak, weight = mx.broadcast_to(learned[..., None], peak.shape), weight + 1
    cap = view.cache.logit_cap
    sums: dict[str, Array] = {}
    step = max(128, min(CHUNK_COLUMNS, MAX_SCORES // (batch * q_heads * length)))
    for low in range(view.lowest(), view.offset, step):
        columns = low, min(low + step, view.offset)
        scores = _scores(view.key, columns, (plain, framed, known), repeats)
        if cap is not None:
            scores = cap * mx.tanh(scores / cap)
        allowed = visible.block((0, length), columns)
        if allowed is not None:
            cells = scores.reshape(*grid, -1)
            table = mx.array(allowed)
            cells = mx.where(table, cells, MASKED) if allowed.dtype == np.bool_ else cells + table
            scores = cells.reshape(scores.shape)
        top = mx.maximum(peak, mx.max(scores, axis=-1, keepdims=True))
        shares = mx.exp(scores - top)
        decay = mx.exp(peak - top)
        weight = weight * decay + mx.sum(shares, axis=-1, keepdims=True)
        added = _weighted(view.value, columns, shares, repeats)
        sums = {form: _add(part, sums[form] * decay if form in sums else None) for form, part in added.items()} | {
            form: part * decay for form, part in sums.items() if form not in added
        }
        peak = top
        # Without this the chunks would run as one graph, which holds what all of them unpack. A single query does not
        # wait for the device.
        (mx.eval if length > 1 else mx.async_eval)(peak, weight, *sums.values())
    total = _add(sums.get("half"), view.value.codec.output(sums["packed"]) if "packed" in sums else None)
    return (total / weight).reshape(batch, q_heads, length, -1).astype(queries.dtype)


def _scores(side: SideView, columns: tuple[int, int], q: tuple[Array, Array, Array | None], repeats: int) -> Array:
    import mlx.core as mx

    plain, framed, known = q
    parts = []
    for low, high, form in side.spans(*columns):
        if form != "packed":
            half = plain @ side.half(low, high).astype(mx.float32).swapaxes(-1, -2)
        if form != "half":
            part = framed @ side.packed(mx, low, high).swapaxes(-1, -2)
            if side.part is not None:
                part = part + known @ side.part.table(mx, low, high).T
        if form == "both":
            part = mx.where(_share(side, low, high, plain.shape[2] // repeats, repeats), part, half)
        parts.append(half if form == "half" else part)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _add(left: Array | None, right: Array | None) -> Array:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _weighted(side: SideView, columns: tuple[int, int], shares: Array, repeats: int) -> dict[str, Array]:
    """Sums of 16-bit values (`half`) and of packed ones (`packed`) under the shares, where there are any."""
    import mlx.core as mx

    sums: dict[str, Array] = {}
    for low, high, form in side.spans(*columns):
        part = shares[..., low - columns[0] : high - columns[0]]
        packed = part
        if form == "both":
            share = _share(side, low, high, shares.shape[2] // repeats, repeats)
            packed, part = part * share, part * (1 - share)
        if form != "half":
            sums["packed"] = _add(packed @ side.packed(mx, low, high), sums.get("packed"))
        if form != "packed":
            sums["half"] = _add(part @ side.half(low, high).astype(mx.float32), sums.get("half"))
    return sums


def _share(side: SideView, low: int, high: int, length: int, repeats: int) -> Array:
    """1 where a query reads the packed form of a column and 0 where it reads 16 bit, [R L, T]."""
    import mlx.core as mx

    until = [side.packed_until(side.start + row) for row in range(length)] * repeats
    return (mx.arange(low, high)[None] < mx.array(until)[:, None]).astype(mx.float32)
