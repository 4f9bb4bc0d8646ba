"""Sequences of one layer side by side in one packed cache, so that one launch serves all of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from swarm.kernels.attention import StoredView
from swarm.kernels.fused import operands
from swarm.kernels.side import SideView

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.cache import PackedKVCache
    from swarm.kernels.side import CacheSide

NOTHING: Mapping[str, Any] = {"offset": 0, "encoded": 0, "arrays": {}}  # the state of a side
HALVES = ("sink", "tail")  # 16-bit arrays of a state
MOST_PADDING = 0.5  # bytes before shorter sequences, relative to those of tokens


class AlignedRows:
    """The tokens of several sequences of a layer in one cache [B, ...], aligned at their last ones.

    The caches of the sequences hold nothing meanwhile; `give_back` moves the tokens into them again. What lies before
    a shorter sequence is never read.
    """

    def __init__(self, rows: Sequence[PackedKVCache]) -> None:
        import mlx.core as mx

        self._lengths = [row.offset for row in rows]
        self._longest = longest = max(self._lengths)
        even = min(self._lengths) == longest
        self._starts = None if even else operands.starts_of(tuple(longest - n for n in self._lengths))
        self.cache = copy.deepcopy(rows[0])
        self.cache.keep_state_at(-1)
        held = [_stacked(sides, longest) for sides in zip(*(row.sides for row in rows), strict=True)]
        for row in rows:
            row.hold(0, [NOTHING] * len(held))
        self.cache.hold(longest, held)
        mx.eval(_arrays(self.cache))  # memory for one more layer at a time

    @classmethod
    def of(cls, rows: Sequence[PackedKVCache]) -> Self | None:
        """The tokens of these caches, or None where they stay apart.

        That is where no fused kernel reads them side by side, where a layer has a window, where 16-bit tails are not
        full, where caches differ in more than their tokens, and where too much would lie before the shorter sequences.
        """
        one, fused = rows[0], rows[0].backend.fused
        if fused is None or one.reach is not None:
            return None
        lengths = [row.offset for row in rows]
        if max(lengths) * len(rows) > (1 + MOST_PADDING) * sum(lengths):
            return None
        if not all(fused.takes_aligned(row.sides) and row.is_like(one) for row in rows):
            return None
        return cls(rows)

    def give_back(self, rows: Sequence[PackedKVCache]) -> None:
        """Move the tokens into the caches that they came from, in the same order."""
        import mlx.core as mx

        states = [side.state() for side in self.cache.sides]
        for i, (row, length) in enumerate(zip(rows, self.lengths, strict=True)):
            row.hold(length, [_of_one(state, i, self.cache.offset - length) for state in states])
        mx.eval([_arrays(row) for row in rows])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""
        grown = self.cache.offset - self._longest
        return tuple(length + grown for length in self._lengths)

    @property
    def offset(self) -> Array:
        """Position of each sequence's next token [B]."""
        return positions(self.lengths)

    def append(self, keys: Array, values: Array) -> StoredView:
        """Take in keys and values [B, H, 1, D] of a token of every sequence; the view is for `attend`."""
        view = self.cache.append(keys, values)
        view.starts = self._starts
        return view

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None
    ) -> Array | None:
        """Attention output [B, Hq, 1, D] over a view, or None where the kernels do not take the call."""
        if self._starts is None:
            return self.cache.attend(view, queries, scale, mask, sinks)
        fused = self.cache.backend.fused
        if fused is None or not (mask is None or isinstance(mask, str)):
            return None
        return fused.attend(view, queries, scale * self.cache.logit_gain, None, sinks)


def last_token(row: PackedKVCache, fresh: tuple[Array, Array]) -> StoredView:
    """What attention of the last token of a cache reads, which came in as `fresh` [1, H, 1, D]."""
    start = row.offset - 1

    def view(side: CacheSide, x: Array) -> SideView:
        return SideView(side, x, start, start) if side.tail is None else SideView(side, side.tail, side.encoded, start)

    key, value = (view(side, x) for side, x in zip(row.sides, fresh, strict=True))
    return StoredView(row, key, value, fresh)


def _stacked(sides: Sequence[CacheSide], longest: int) -> dict[str, Any]:
    """The states of sides as one: packed arrays [B, H, T, ...] aligned at the end, 16-bit tokens as they are."""
    import mlx.core as mx

    states = [(side.state(), longest - side.offset) for side in sides]

    def stacked(name: str) -> Array:
        parts = [(state["arrays"][name], 0 if name in HALVES else missing) for state, missing in states]
        return mx.concatenate([mx.pad(x, [(0, 0), (0, 0), (n, 0)] + [(0, 0)] * (x.ndim - 3)) for x, n in parts])

    one, missing = states[0]
    held = {name: stacked(name) for name in one["arrays"]}
    return {"offset": longest, "encoded": one["encoded"] + missing, "arrays": held}


def _of_one(state: Mapping[str, Any], row: int, missing: int) -> dict[str, Any]:
    """The state of one sequence among those of a side, which is so many tokens shorter than the longest."""
    import mlx.core as mx

    held = {}
    for name, part in state["arrays"].items():
        own = part[row : row + 1]
        held[name] = mx.contiguous(own) if name in HALVES else own[:, :, missing:]
    return {"offset": state["offset"] - missing, "encoded": state["encoded"] - missing, "arrays": held}


def _arrays(cache: PackedKVCache) -> list[Array]:
    packed = [part for side in cache.sides for part in side.store.arrays()[0].values()]
    return packed + [half for side in cache.sides for half in (side.sink, side.tail) if half is not None]


@lru_cache(maxsize=8)
def positions(lengths: tuple[int, ...]) -> Array:
    """An array of numbers, which the layers of a step share."""
    import mlx.core as mx

    return mx.array(lengths)
