"""One layer's packed caches of several sequences, behind the interface of mlx-lm's batched caches.

Every sequence keeps a packed cache of its own. A model computes all else for the whole batch: its weights are read
once for all sequences. While answers grow token by token, fused kernels read the sequences side by side in one cache;
the tokens move back when a sequence comes or goes, or several tokens come in.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Self, TypeVar

from swarm.kernels import arrays
from swarm.kernels.aligned_rows import AlignedRows, last_token, positions
from swarm.kernels.attention import StoredView
from swarm.kernels.errors import ModelError
from swarm.kernels.last_view import KeepsLastView

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.cache import PackedKVCache

T = TypeVar("T")
Part = tuple[int, int]  # the first token of a call that belongs to a sequence, and the one behind its last


class BatchView(StoredView):
    """What attention of a batch reads: a view per sequence, None where the call brought only padding.

    `parts` says which tokens of the call belong to each.
    """

    def __init__(
        self,
        cache: PackedBatchCache,
        views: Sequence[StoredView | None],
        parts: Sequence[Part],
        fresh: tuple[Array, Array],
    ) -> None:
        self.cache = cache
        self.views = views
        self.parts = parts
        self.fresh = fresh
        self.told = False
        length = fresh[0].shape[2]
        self.offset = max(row.offset for row in cache.rows)  # of the longest sequence
        self.start = max(0, self.offset - length)


class PackedBatchCache(KeepsLastView):
    """Packed caches `rows` of one layer, one per sequence.

    Tokens with which a shorter prompt is padded are not stored; the attention output at their place is zero.

    Raises:
        ModelError: the layer attends within chunks, which mlx-lm does not batch.
    """

    together = True  # whether sequences may share one cache while they grow by single tokens

    def __init__(self, rows: Sequence[PackedKVCache]) -> None:
        self._rows = list(rows)
        self._aligned: AlignedRows | None = None  # what holds the tokens of the rows now
        if self.rows[0].chunk is not None:
            raise ModelError("mlx-lm has no batches of attention within chunks.", "Run its sequences one at a time.")
        one = self._rows[0]  # what the layer is, all sequences have in common
        self.layer, self.family, self.logit_cap, self.reach = one.layer, one.family, one.logit_cap, one.reach
        self._fed = 0  # tokens per sequence, padding included, since `prepare`
        self._real: list[tuple[int, float]] | None = None  # which of them are no padding

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self)(copy.deepcopy(self.rows, memo))
        other._fed, other._real = self._fed, self._real
        return other

    @property
    def rows(self) -> list[PackedKVCache]:
        """The cache of every sequence, with its tokens."""
        if self._aligned is not None:
            self._aligned.give_back(self._rows)
            self._aligned = None
        return self._rows

    @property
    def _held(self) -> list[PackedKVCache]:
        """The caches that hold the tokens now."""
        return self._rows if self._aligned is None else [self._aligned.cache]

    @property
    def offset(self) -> Array:
        """Position of each sequence's next token [B]: before padding on the left, below 0."""
        if self._aligned is not None:
            return self._aligned.offset
        ahead = [0] * len(self._rows) if self._real is None else [max(0, low - self._fed) for low, _ in self._real]
        return positions(tuple(row.offset - padding for row, padding in zip(self._rows, ahead, strict=True)))

    def prepare(
        self,
        *,
        left_padding: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        **_said: Any,
    ) -> None:
        """Say how the calls until `finalize` are padded, per sequence: tokens before, and real tokens.

        What else mlx-lm says (`right_padding`) follows from that.
        """
        low = left_padding or [0] * len(self.rows)
        real = [float("inf")] * len(self.rows) if lengths is None else lengths
        self._fed, self._real = 0, [(first, first + count) for first, count in zip(low, real, strict=True)]

    def finalize(self) -> None:
        """The padded tokens have all come in."""
        self._real = None

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Any, ...]:
        """Take in the keys and values [B, H, T, D] of new tokens; the returned views are for attention only."""
        length = keys.shape[2]
        if length == 1 and self.together and self._real is None:
            self._view = self._token(keys, values)
            if self._view is not None:
                return self._view, self._view
        parts = self._parts(length)
        self._fed += length
        xp = self.rows[0].backend.xp
        held = [arrays.held(xp, x) for x in (keys, values)]

        def take(i: int) -> StoredView | None:
            low, high = parts[i]
            return self.rows[i].append(*(x[i : i + 1, :, low:high] for x in held)) if low < high else None

        views = self._each(take)
        self._view = BatchView(self, views, parts, (keys, values))
        return self._view, self._view

    def _token(self, keys: Array, values: Array) -> StoredView | None:
        """Take in a token of every sequence for all at once, where there is one sequence or they lie side by side."""
        if len(self._rows) == 1:
            return self._rows[0].append(keys, values)
        if self._aligned is None:
            self._aligned = AlignedRows.of(self._rows)
        if self._aligned is None:
            return None
        view = self._aligned.append(keys, values)
        view.cache = self
        return view

    def _parts(self, length: int) -> list[Part]:
        """Which of the next so many tokens belong to each sequence."""
        if self._real is None:
            return [(0, length)] * len(self.rows)
        edges = [(low - self._fed, high - self._fed) for low, high in self._real]
        return [(min(max(low, 0), length), int(min(max(high, 0), length))) for low, high in edges]

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, D] over the columns of a view of this cache, sequence by sequence."""
        if not isinstance(view, BatchView):
            found = None if self._aligned is None else self._aligned.attend(view, queries, scale, mask, sinks)
            if found is not None:
                return found
            view = self._apart(view)
        xp = self.rows[0].backend.xp
        held = arrays.held(xp, queries)
        # Threads other than the model's cannot compute what MLX has not computed yet.
        sinks = None if sinks is None else arrays.held(xp, sinks)
        mask = mask if mask is None or isinstance(mask, str) else arrays.held(xp, mask)
        length = queries.shape[2]

        def read(i: int) -> Array:
            seen, (low, high) = view.views[i], view.parts[i]
            if seen is None:
                return xp.zeros((1, *queries.shape[1:3], view.fresh[1].shape[-1]), held.dtype)
            told = _mask_of(mask, i, (low, high), length)
            out = self.rows[i].attend(seen, held[i : i + 1, :, low:high], scale, told, sinks)
            return out if high - low == length else xp.pad(out, [(0, 0), (0, 0), (low, length - high), (0, 0)])

        return arrays.to_mlx(xp.concatenate(self._each(read), axis=0)).astype(queries.dtype)

    def _apart(self, view: StoredView) -> BatchView:
        """A view of the last token of all sequences side by side, as a view per sequence; they stay apart then."""
        if isinstance(self._view, BatchView):  # another reader of the same call was here
            return self._view
        if view is not self._view:
            raise TypeError("a batch attends to its own views")
        self.together = False
        fresh = [tuple(x[i : i + 1] for x in view.fresh) for i in range(len(self.rows))]
        views = [last_token(row, own) for row, own in zip(self.rows, fresh, strict=True)]
        self._view = BatchView(self, views, [(0, 1)] * len(views), view.fresh)
        return self._view

    def _each(self, job: Callable[[int], T]) -> list[T]:
        """Results of a job for every sequence: side by side in threads where numpy computes, one by one on a GPU."""
        if len(self.rows) > 1 and arrays.is_host(self.rows[0].backend.xp):
            return list(_threads().map(job, range(len(self.rows))))
        return [job(i) for i in range(len(self.rows))]

    def first_seen(self, position: Any) -> Any:
        """The first token that the query at a position sees: integers or integer arrays."""
        return self._rows[0].first_seen(position)

    def mask_columns(self, _offset: int) -> int:
        """Old columns that a mask of this batch covers: those of the sequence with the most."""
        return max(row.mask_columns(row.offset) for row in self._held)

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        """mlx-lm's mask for N new tokens: None, "causal", or bool [B, 1, N, columns] right-aligned with the columns."""
        import mlx.core as mx

        if N == 1 and self._rows[0].make_mask(N, return_array, window_size) is None:
            return None
        masks = [row.make_mask(N, return_array, window_size) for row in self.rows]
        return self.stacked(masks) if isinstance(masks[0], mx.array) else masks[0]

    def stacked(self, masks: Sequence[Array]) -> Array:
        """Masks [N, columns] of every sequence as one, right-aligned: nothing is seen where a sequence has fewer."""
        import mlx.core as mx

        width = max(mask.shape[-1] for mask in masks)
        return mx.stack([mx.pad(mask, [(0, 0), (width - mask.shape[-1], 0)]) for mask in masks])[:, None]

    def extend(self, other: PackedBatchCache) -> None:
        """Put the sequences of another batch behind those of this one."""
        self._rows, self.together = self.rows + other.rows, type(self).together

    def filter(self, batch_indices: Sequence[int]) -> None:
        """Keep only these sequences, in this order."""
        self._rows, self._view = [self.rows[i] for i in batch_indices], None
        self.together = type(self).together

    def extract(self, idx: int) -> PackedKVCache:
        """A cache of one sequence as it is now, on shared memory until either grows."""
        return copy.deepcopy(self.rows[idx])

    @property
    def state(self) -> list[Any]:
        """What is stored of each sequence."""
        return [row.state for row in self.rows]

    def size(self) -> int:
        """Tokens held of the sequence with the most."""
        return max(row.size() for row in self._held)

    def empty(self) -> bool:
        """Whether no token came in yet."""
        return all(row.empty() for row in self._held)

    @property
    def nbytes(self) -> int:
        """Bytes held for all sequences."""
        return sum(row.nbytes for row in self._held)

    def is_trimmable(self) -> bool:
        """Whether any number of last tokens can be taken back from every sequence."""
        return all(row.is_trimmable() for row in self._held)

    def trim(self, n: int) -> int:
        """Take back the last n tokens of every sequence, or all of one that has fewer; returns the most taken."""
        return max(row.trim(n) for row in self.rows)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "sequence")


def _mask_of(mask: Array | str | None, row: int, part: Part, length: int) -> Array | str | None:
    """What a mask [B, 1, L, columns] over padded calls says of the tokens of one sequence."""
    if mask is None or isinstance(mask, str):
        return mask
    low, high = part
    old = mask.shape[-1] - length
    own = mask[row : row + 1] if mask.ndim == 4 and mask.shape[0] > 1 else mask
    return own[..., low:high, (old + low if low else 0) : old + high]
