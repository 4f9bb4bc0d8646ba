"""Attention of mlx-lm models over packed caches: what a model is handed, who sees what, and the call that computes it.

mlx-lm sends caches with an attribute `bits` to one module global. `install` replaces that global once by a function
that takes our views itself and passes everything else on; the back-end of a cache computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.side import SideView

MASKED = -1e30  # finite, so that a row that sees nothing yet gives no NaN


class LayerCache(Protocol):
    """What attention asks of the cache of a layer."""

    layer: int
    family: str
    window: int | None
    logit_cap: float | None

    def mask_columns(self, offset: int) -> int:
        """Old columns that a mask covers when `offset` tokens are stored."""

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, D] over the columns of a view of this cache."""


class StoredView:
    """The stored keys and values as the queries of one call may see them. Only attention can read it."""

    def __init__(self, cache: LayerCache, key: SideView, value: SideView, fresh: tuple[Array, Array]) -> None:
        self.cache = cache
        self.key = key
        self.value = value
        self.fresh = fresh  # the keys and values of this call as the model gave them
        self.start = key.start
        self.offset = key.offset

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[B, H, columns, D]: the columns are those that a mask of `make_mask` covers."""
        batch, heads, length, dim = self.fresh[0].shape
        return batch, heads, self.cache.mask_columns(self.start) + length, dim

    @property
    def dtype(self) -> Any:
        """The type of the keys that came in."""
        return self.fresh[0].dtype

    def lowest(self) -> int:
        """The first column that any query of this call sees."""
        window = self.cache.window
        return 0 if window is None else max(0, self.start - window + 1)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _bypassed(self.cache.family)

    def __getitem__(self, key: object) -> NoReturn:
        raise _bypassed(self.cache.family)

    __iter__ = __len__ = __getitem__
    __add__ = __mul__ = __matmul__ = __rmatmul__ = __getitem__


def _bypassed(family: str) -> ModelError:
    return ModelError(
        f"The attention of {family or 'this model family'} reads keys and values itself.",
        "It bypasses mlx-lm's scaled_dot_product_attention, so its cache cannot be packed: choose another model.",
    )


class Visibility:
    """Which columns each query sees: causal order, window, and the model's mask, right-aligned with the columns."""

    def __init__(self, view: StoredView, mask: Array | str | None, groups: tuple[int, int]) -> None:
        self.view = view
        self.causal = isinstance(mask, str)
        self.window = view.cache.window
        self.mask = None if mask is None or isinstance(mask, str) else _grouped(arrays.to_numpy(mask), groups)

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
        return after or (self.window is not None and columns[1] - 1 <= first - self.window)

    def _positions(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray | None:
        first, last = self.view.start + rows[0], self.view.start + rows[1] - 1
        later = self.causal and columns[1] - 1 > first
        older = self.window is not None and columns[0] <= last - self.window
        if not later and not older:
            return None
        query = np.arange(first, last + 1)[:, None]
        column = np.arange(*columns)[None]
        seen = column <= query if later else np.ones((len(query), column.size), np.bool_)
        return seen & (column > query - (self.window or 0)) if older else seen

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


@dataclass(frozen=True, eq=False)
class Recorded:
    """One attention call: the layer's cache, the position of its first token, and its arrays after RoPE.

    `queries` [B, Hq, L, D], `keys` and `values` [B, H, L, D] are those of this call alone, as the model gave them;
    `scale` is the attention scale of the call, without the logit gain.
    """

    cache: LayerCache
    start: int
    queries: Array
    keys: Array
    values: Array
    scale: float

    @property
    def layer(self) -> int:
        """Index of the layer."""
        return self.cache.layer


Callback = Callable[[Recorded], None]
_listeners: ContextVar[tuple[Callback, ...]] = ContextVar("attention_listeners", default=())


@contextmanager
def record(callback: Callback) -> Iterator[None]:
    """While active, call back with every attention call over a packed cache, before it is computed."""
    token = _listeners.set((*_listeners.get(), callback))
    try:
        yield
    finally:
        _listeners.reset(token)


def attend(
    view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
) -> Array:
    """Attention output [B, Hq, L, D] over the columns of the view, by the cache's back-end."""
    keys, values = view.fresh
    for listener in _listeners.get():
        listener(Recorded(view.cache, view.start, queries, keys, values, scale))
    return view.cache.attend(view, queries, scale, mask, sinks)


def install(cache_class: type) -> None:
    """Put our function in the place of mlx-lm's packed attention; further calls change nothing.

    `cache_class` is made known to mlx-lm's `load_prompt_cache`, which looks classes up by name in its own module.
    """
    from mlx_lm.models import base
    from mlx_lm.models import cache as mlx_caches

    setattr(mlx_caches, cache_class.__name__, cache_class)
    original = base.quantized_scaled_dot_product_attention
    if getattr(original, "attends_packed_caches", False):
        return

    def packed_attention(queries: Array, q_keys: Any, q_values: Any, scale: float, mask: Any, **options: Any) -> Array:
        if isinstance(q_keys, StoredView):
            return attend(q_keys, queries, scale, mask)
        return original(queries, q_keys, q_values, scale=scale, mask=mask, **options)

    packed_attention.attends_packed_caches = True  # type: ignore[attr-defined]
    base.quantized_scaled_dot_product_attention = packed_attention
