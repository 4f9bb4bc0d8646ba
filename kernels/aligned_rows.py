"""Sequences of one layer side by side in one packed cache, so that one launch serves all of them."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Self

from swarm.kernels.attention import StoredView
from swarm.kernels.side import SideView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.kernels.arrays import Array, Packed
    from swarm.kernels.cache import PackedKVCache
    from swarm.kernels.side import CacheSide

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
        self._starts = None if even else mx.array([longest - length for length in self._lengths], mx.int32)
        self.cache = copy.deepcopy(rows[0])
        self.cache.keep_state_at(-1)
        held = [_stacked(sides, longest) for sides in zip(*(row.sides for row in rows), strict=True)]
        for row in rows:
            row.hold(0, [({}, None)] * len(held))
        self.cache.hold(longest, held)
        mx.eval(_arrays(self.cache))  # memory for one more layer at a time

    @classmethod
    def of(cls, rows: Sequence[PackedKVCache]) -> Self | None:
        """The tokens of these caches, or None where they stay apart.

        That is where no fused kernel reads them side by side, where sequences have a 16-bit tail or a window, where
        caches differ in more than their tokens, and where too much would lie before the shorter sequences.
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

        held = [(side.store.read(0, side.store.blocks), side.sink) for side in self.cache.sides]
        for i, (row, length) in enumerate(zip(rows, self.lengths, strict=True)):
            own = []
            for packed, sink in held:
                first = self.cache.offset - length
                sinks = None if sink is None else mx.contiguous(sink[i : i + 1])
                own.append(({name: part[i : i + 1, :, first:] for name, part in packed.items()}, sinks))
            row.hold(length, own)
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
    """What attention of the last token of a cache reads, which came in as `fresh` [1, H, 1, D] and is packed."""
    before = row.offset - 1
    key, value = (SideView(side, x, before, before) for side, x in zip(row.sides, fresh, strict=True))
    return StoredView(row, key, value, fresh)


def _stacked(sides: Sequence[CacheSide], longest: int) -> tuple[Packed, Array | None]:
    """Packed arrays of every sequence as one [B, H, T, ...], aligned at the end, and sinks [B, H, T, D]."""
    import mlx.core as mx

    def padded(part: Array, missing: int) -> Array:
        return mx.pad(part, [(0, 0), (0, 0), (missing, 0)] + [(0, 0)] * (part.ndim - 3))

    rows = [(side.store.read(0, side.store.blocks), longest - side.offset) for side in sides]
    packed = {name: mx.concatenate([padded(part[name], missing) for part, missing in rows]) for name in rows[0][0]}
    sinks = [side.sink for side in sides if side.sink is not None]
    return packed, mx.concatenate(sinks) if sinks else None


def _arrays(cache: PackedKVCache) -> list[Array]:
    packed = [part for side in cache.sides for part in side.store.arrays()[0].values()]
    return packed + [side.sink for side in cache.sides if side.sink is not None]


@lru_cache(maxsize=8)
def positions(lengths: tuple[int, ...]) -> Array:
    """An array of numbers, which the layers of a step share."""
    import mlx.core as mx

    return mx.array(lengths)
