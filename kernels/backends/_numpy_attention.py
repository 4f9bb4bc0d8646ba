"""Attention over a packed cache in numpy: chunks of columns, online softmax, no copy of the dequantized cache.

The view says which columns are held in which form and which queries see them. One token's queries read codes as they
are, more queries read decoded vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.backends._numpy_codes import MAX_FEW_ROWS, Codes, Vectors, foldable
from swarm.kernels.visibility import MASKED, Visibility

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView
    from swarm.kernels.side import SideView

CHUNK_COLUMNS = 1024  # columns unpacked at a time
FEW_VALUES = (
    3 << 17
)  # of one side unpacked at a time for a few query rows; much larger arrays are mapped anew each time
MAX_SCORES = 1 << 20  # scores of one tile of queries and one head group: what stays in the processor's cache


class _Tile:
    """A run of queries [B, H, R, l, D] (R query heads share a KV head) and its running softmax."""

    def __init__(self, view: StoredView, queries: np.ndarray, rows: tuple[int, int], sinks: np.ndarray | None) -> None:
        batch, heads, repeats, length, dim = queries.shape
        self.rows = rows
        self.shape = (batch, heads, repeats, length)
        flat = np.ascontiguousarray(queries).reshape(batch, heads, repeats * length, dim)
        self.plain = flat
        self.framed = view.key.codec.query(flat)
        self.known = None if view.key.part is None else view.key.part.features(flat)
        self.positions = np.tile(np.arange(*rows) + view.start, repeats)[:, None]
        self.peak = np.full((batch, heads, repeats * length, 1), MASKED, np.float32)
        self.weight = np.zeros_like(self.peak)
        if sinks is not None:
            self.peak[:] = np.repeat(sinks.reshape(heads, repeats), length, axis=1)[..., None]
            self.weight += 1
        self.sums: dict[str, np.ndarray] = {}

    def step(self, scores: np.ndarray, values: list[tuple[str, slice, Vectors | Codes, np.ndarray | None]]) -> None:
        """One chunk: scores [B, H, R l, T], and per run of columns its frame, vectors, and share of each query."""
        peak = np.maximum(self.peak, scores.max(axis=-1, keepdims=True))
        scores -= peak
        np.exp(scores, out=scores)
        decay = np.exp(self.peak - peak)
        self.weight = self.weight * decay + scores.sum(axis=-1, keepdims=True)
        self.peak = peak
        for frame in self.sums:
            self.sums[frame] *= decay
        for frame, where, vectors, share in values:
            part = scores[..., where] if share is None else scores[..., where] * share
            product = vectors.weighted(part)
            if frame in self.sums:
                self.sums[frame] += product
            else:
                self.sums[frame] = product

    def result(self, view: StoredView) -> np.ndarray:
        """Attention output [B, H, R, l, D]."""
        total = sum(view.value.codec.output(part) if frame == "packed" else part for frame, part in self.sums.items())
        return (total / self.weight).reshape(*self.shape, -1)


def attend(
    view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
) -> Array:
    """Attention output [B, Hq, L, D of the values] in the queries' type; `sinks` [Hq] are learned logits."""
    q = arrays.single(np, arrays.to_numpy(queries))
    batch, q_heads, length, dim = q.shape
    heads = view.fresh[0].shape[1]
    repeats = q_heads // heads
    grouped = (q * np.float32(scale)).reshape(batch, heads, repeats, length, dim)
    visible = Visibility(view, mask, (heads, repeats))
    size = max(1, MAX_SCORES // (CHUNK_COLUMNS * repeats))
    edges = [(low, min(low + size, length)) for low in range(0, length, size)]
    learned = None if sinks is None else arrays.single(np, arrays.to_numpy(sinks))
    tiles = [_Tile(view, grouped[:, :, :, low:high], (low, high), learned) for low, high in edges]
    few = repeats * length <= MAX_FEW_ROWS
    step = max(FEW_VALUES // (batch * heads * dim), 64) if few else CHUNK_COLUMNS
    for low in range(view.lowest(), view.offset, step):
        columns = low, min(low + step, view.offset)
        seeing = [tile for tile in tiles if not visible.hidden(tile.rows, columns)]
        if seeing:
            _chunk(view, visible, columns, seeing, few)
    out = np.concatenate([tile.result(view) for tile in tiles], axis=3) if len(tiles) > 1 else tiles[0].result(view)
    out = out.reshape(batch, q_heads, length, -1)
    return arrays.like(queries, out).astype(queries.dtype)


def _chunk(view: StoredView, visible: Visibility, columns: tuple[int, int], tiles: list[_Tile], few: bool) -> None:
    keys = _forms(view.key, columns, few)
    values = keys if view.value is view.key else _forms(view.value, columns, few)  # a latent is both
    plain = view.value.codec.identity
    for tile in tiles:
        scores = _scores(view.key, keys, tile, columns)
        if view.cache.logit_cap is not None:
            cap = np.float32(view.cache.logit_cap)
            scores = cap * np.tanh(scores / cap)
        allowed = visible.block(tile.rows, columns)
        if allowed is not None:
            grid = scores.reshape(*tile.shape, scores.shape[-1])
            if allowed.dtype == np.bool_:
                np.copyto(grid, np.float32(MASKED), where=~allowed)
            else:
                grid += allowed
        runs = []
        for low, high, half, packed in values:
            where = slice(low - columns[0], high - columns[0])
            share = _share(view.value, tile, low, high) if half is not None and packed is not None else None
            if packed is not None:
                runs.append(("half" if plain else "packed", where, packed, share))
            if half is not None:
                runs.append(("half", where, half, None if share is None else 1 - share))
        tile.step(scores, runs)


_Form = tuple[int, int, "Vectors | None", "Vectors | Codes | None"]


def _forms(side: SideView, columns: tuple[int, int], few: bool) -> list[_Form]:
    """Runs of columns with their vectors in 16-bit form (as float32), in packed form, or both."""
    return [
        (
            low,
            high,
            None if form == "packed" else Vectors(arrays.single(np, side.half(low, high))),
            None if form == "half" else _packed(side, low, high, few),
        )
        for low, high, form in side.spans(*columns)
    ]


def _packed(side: SideView, low: int, high: int, few: bool) -> Vectors | Codes:
    form = side.codec.form
    if few and form is not None and foldable(form):
        return Codes(form, side.stored(low, high))
    return Vectors(side.packed(np, low, high))


def _scores(side: SideView, keys: list[_Form], tile: _Tile, columns: tuple[int, int]) -> np.ndarray:
    scores = np.empty((*tile.plain.shape[:3], columns[1] - columns[0]), np.float32)
    for low, high, half, packed in keys:
        where = scores[..., low - columns[0] : high - columns[0]]
        if packed is not None:
            packed.scores(tile.framed, where)
            if side.part is not None:
                where += tile.known @ side.part.table(np, low, high).T
        if half is not None:
            if packed is None:
                half.scores(tile.plain, where)
            else:
                product = np.empty_like(where)
                half.scores(tile.plain, product)
                np.copyto(where, product, where=_share(side, tile, low, high) == 0)
    return scores


def _share(side: SideView, tile: _Tile, low: int, high: int) -> np.ndarray:
    """1 where a query reads the packed form of a column and 0 where it reads 16 bit, float32 [R l, T]."""
    until = np.array([side.packed_until(int(position)) for position in tile.positions[:, 0]])
    return (np.arange(low, high)[None] < until[:, None]).astype(np.float32)
