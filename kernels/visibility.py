"""Which columns of a cache each query of a call sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels import arrays

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView

MASKED = -1e30  # finite, so that a row that sees nothing yet gives no NaN


class Visibility:
    """Which columns each query sees: causal order, window or chunk, and the model's mask, right-aligned."""

    def __init__(self, view: StoredView, mask: Array | str | None, groups: tuple[int, int]) -> None:
        self.view = view
        self.causal = isinstance(mask, str)
        self.mask = None if mask is None or isinstance(mask, str) else _grouped(arrays.to_numpy(mask), groups)
        # A mask of the model's says all: plamo3 makes one that is wider than its window.
        self.limited = view.cache.reach is not None and self.mask is None

    def block(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray | None:
        """Allowed [L, T] or [B, H, R, L, T] as bool, an additive float mask, or None where all is seen.

        `rows` counts queries from the call's first; `columns` are positions.
        """
        seen = self._positions(rows, columns)
        if self.mask is None:
            return seen
        part = self._slice(rows, columns)
        if seen is None:
            return part
        return part & seen if part.dtype == np.bool_ else np.where(seen, part, np.float32(MASKED))

    def hidden(self, rows: tuple[int, int], columns: tuple[int, int]) -> bool:
        """Whether order and window hide all these columns from all these queries."""
        first, last = self.view.start + rows[0], self.view.start + rows[1] - 1
        after = self.causal and columns[0] > last
        return after or (self.limited and columns[1] <= self.view.cache.first_seen(first))

    def _positions(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray | None:
        first, last = self.view.start + rows[0], self.view.start + rows[1] - 1
        later = self.causal and columns[1] - 1 > first
        older = self.limited and columns[0] < self.view.cache.first_seen(last)
        if not later and not older:
            return None
        query = np.arange(first, last + 1)[:, None]
        column = np.arange(*columns)[None]
        seen = column <= query if later else np.ones((len(query), column.size), np.bool_)
        return seen & (column >= self.view.cache.first_seen(query)) if older else seen

    def _slice(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        mask = self.mask
        if mask is None:
            raise TypeError("no mask was given")
        shift = self.view.offset - mask.shape[-1]
        low, high = max(columns[0] - shift, 0), max(columns[1] - shift, 0)
        lines = slice(*rows) if mask.shape[-2] > 1 else slice(None)
        part = mask[..., lines, low:high]
        missing = columns[1] - columns[0] - part.shape[-1]
        if not missing:
            return part
        hidden = np.zeros((*part.shape[:-1], missing), np.bool_)
        fill = hidden if part.dtype == np.bool_ else np.full(hidden.shape, MASKED, np.float32)
        return np.concatenate([fill, part], axis=-1)


def _grouped(mask: np.ndarray, groups: tuple[int, int]) -> np.ndarray:
    """A mask [.., L, T] as bool or float32, broadcastable over [B, H, R, L, T]."""
    mask = mask if mask.dtype == np.bool_ else np.maximum(mask.astype(np.float32), np.float32(MASKED))
    if mask.ndim == 1:
        return mask[None]
    if mask.ndim == 3:
        return mask[:, None, None]
    if mask.ndim == 4:
        heads, repeats = groups
        if mask.shape[1] == 1:
            return mask[:, :, None]
        return mask.reshape(mask.shape[0], heads, repeats, *mask.shape[2:])
    return mask
