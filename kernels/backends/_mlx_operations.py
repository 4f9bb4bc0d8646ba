"""Attention over a packed cache in MLX operations: chunks of columns, online softmax, for back-ends without a kernel.

Knows arrays; the view knows which columns are held in which form and who sees them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels.view import MASKED, Visibility

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.side import SideView
    from swarm.kernels.view import StoredView

COLUMNS = 4096  # columns unpacked at a time


def attend(view: StoredView, queries: Array, scale: float, mask: Array | str | None) -> Array:
    """Attention output [B, Hq, L, D] in the queries' type, accumulated in float32."""
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
    halves, codes = mx.array(0.0), mx.array(0.0)
    for low in range(view.lowest(), view.offset, COLUMNS):
        columns = low, min(low + COLUMNS, view.offset)
        scores = _scores(view.key, columns, (plain, framed, known), repeats)
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
        half, packed = _weighted(view.value, columns, shares, repeats)
        halves, codes = halves * decay + half, codes * decay + packed
        peak = top
    total = halves + view.value.codec.output(codes) if codes.ndim > 1 else halves
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


def _weighted(side: SideView, columns: tuple[int, int], shares: Array, repeats: int) -> tuple[Array, Array]:
    """Sums of 16-bit and of packed values under the shares; a scalar 0 where there are none."""
    import mlx.core as mx

    halves, codes = mx.array(0.0), mx.array(0.0)
    for low, high, form in side.spans(*columns):
        part = shares[..., low - columns[0] : high - columns[0]]
        packed = part
        if form == "both":
            share = _share(side, low, high, shares.shape[2] // repeats, repeats)
            packed, part = part * share, part * (1 - share)
        if form != "half":
            codes = codes + packed @ side.packed(mx, low, high)
        if form != "packed":
            halves = halves + part @ side.half(low, high).astype(mx.float32)
    return halves, codes


def _share(side: SideView, low: int, high: int, length: int, repeats: int) -> Array:
    """1 where a query reads the packed form of a column and 0 where it reads 16 bit, [R L, T]."""
    import mlx.core as mx

    until = [side.packed_until(side.start + row) for row in range(length)] * repeats
    return (mx.arange(low, high)[None] < mx.array(until)[:, None]).astype(mx.float32)
