"""Attention of mlx-lm models over packed caches: what a model is handed, who sees what, and the call that computes it.

Families import mlx-lm's attention function by name. `install` puts a function in its place that takes what packed
caches hand out itself and passes everything else on; the back-end of a cache computes.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from swarm.kernels import gemma2
from swarm.kernels.errors import ModelError
from swarm.kernels.last_view import HandsOutArrays

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.side import SideView


class LayerCache(Protocol):
    """What attention asks of the cache of a layer."""

    layer: int
    family: str
    logit_cap: float | None

    @property
    def reach(self) -> int | None:
        """The most columns that a query sees, None for all."""

    def first_seen(self, position: Any) -> Any:
        """The first column that the query at a position sees: integers or integer arrays."""

    def mask_columns(self, offset: int) -> int:
        """Old columns that a mask covers when `offset` tokens are stored."""

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, D] over the columns of a view of this cache."""


class StoredView:
    """The stored keys and values as the queries of one call may see them. Only attention can read it.

    It lives as long as its cache: who keeps a view keeps the cache too.
    """

    def __init__(self, cache: LayerCache, key: SideView, value: SideView, fresh: tuple[Array, Array]) -> None:
        self.cache = cache
        self.key = key
        self.value = value
        self.fresh = fresh  # the keys and values of this call as the model gave them
        self.start = key.start
        self.offset = key.offset
        self.starts: Array | None = None  # [B], where sequences do not all begin with the first column
        self.told = False  # to those who record calls; other layers may read the view after its own

    @property
    def cache(self) -> LayerCache:
        """The cache that is viewed. It holds its last view, and is freed at once only if that does not hold it too."""
        return self._cache()  # type: ignore[return-value]

    @cache.setter
    def cache(self, cache: LayerCache) -> None:
        self._cache = weakref.ref(cache)

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
        return int(self.cache.first_seen(self.start))

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


@dataclass(frozen=True, eq=False)
class Recorded:
    """One attention call: the layer's cache, the position of its first token, and its arrays after RoPE.

    `queries` [B, Hq, L, D], `keys` and `values` [B, H, L, D] are those of this call alone, as the model gave them;
    `scale` is the attention scale of the call, without the logit gain; `sinks` [Hq] are learned logits. Queries and
    scale are None where the model reads keys and values as arrays and computes attention itself. Layers that read the
    keys and values of another one make no call of their own.
    """

    cache: LayerCache
    start: int
    queries: Array | None
    keys: Array
    values: Array
    scale: float | None
    sinks: Array | None = None

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
    """Attention output [B, Hq, L, D] over the columns of the view, by the cache's back-end.

    `sinks` [Hq] are learned logits that take part in every query's softmax and stand for no token.
    """
    if _listeners.get() and not isinstance(view.cache, HandsOutArrays):
        tell(view, queries, scale, sinks)
    return view.cache.attend(view, queries, scale, mask, sinks)


def tell(
    view: StoredView, queries: Array | None = None, scale: float | None = None, sinks: Array | None = None
) -> None:
    """Call back those who `record`, once per view."""
    listeners = _listeners.get()
    if not listeners or view.told:
        return
    view.told = True
    keys, values = view.fresh
    for listener in listeners:
        listener(Recorded(view.cache, view.start, queries, keys, values, scale, sinks))


@dataclass(frozen=True, eq=False)
class CallOptions:
    """What a call of attention says beside its arrays: scale, mask, learned sinks [Hq], and a cap on its logits."""

    scale: float
    mask: Array | str | None = None
    sinks: Array | None = None
    logit_cap: float | None = None


Interceptor = Callable[["Array", "Array", "Array", CallOptions], None]
_interceptor: ContextVar[Interceptor | None] = ContextVar("attention_interceptor", default=None)


@contextmanager
def intercepted(callback: Interceptor) -> Iterator[None]:
    """While active, call back with queries, keys and values in the place of computing attention."""
    token = _interceptor.set(callback)
    try:
        yield
    finally:
        _interceptor.reset(token)


def install() -> None:
    """Put our function in the place of mlx-lm's attention, in every family that is imported by now or later."""
    from mlx_lm.models import base

    if getattr(base.scaled_dot_product_attention, "original", None) is None:
        base.scaled_dot_product_attention = _replacement(base.scaled_dot_product_attention)
    ours = base.scaled_dot_product_attention
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models.") and vars(module).get("scaled_dot_product_attention") is ours.original:
            setattr(module, "scaled_dot_product_attention", ours)  # noqa: B010
    gemma2.install()


def _replacement(original: Callable[..., Array]) -> Any:
    import mlx.core as mx

    def packed_attention(
        queries: Array,
        keys: Any,
        values: Any,
        cache: Any,
        scale: float,
        mask: Array | str | None,
        sinks: Array | None = None,
        logit_cap: float | None = None,
    ) -> Array:
        callback = _interceptor.get()
        if callback is not None:
            callback(queries, keys, values, CallOptions(float(scale), mask, sinks, logit_cap))
            return mx.broadcast_to(values[:, :1, :1], (*queries.shape[:-1], values.shape[-1]))
        view = keys if isinstance(keys, StoredView) else _view_behind(cache, keys, values)
        if view is not None:
            return attend(view, queries, scale, mask, sinks)
        options = {} if sinks is None else {"sinks": sinks}
        return original(queries, keys, values, cache=cache, scale=scale, mask=mask, **options)

    packed_attention.original = original  # type: ignore[attr-defined]
    return packed_attention


def _view_behind(cache: Any, keys: Any, values: Any) -> StoredView | None:
    """The view of a packed cache, or of one in a `CacheList`, that handed these arrays out."""
    from mlx_lm.models.cache import CacheList

    for part in cache.caches if isinstance(cache, CacheList) else (cache,):
        if isinstance(part, HandsOutArrays) and (view := part.view_of(keys, values)) is not None:
            return view
    return None


def family(model: Any) -> str:
    """The family of an mlx-lm model, as its configuration or its module names it."""
    return str(getattr(model, "model_type", type(model).__module__.rpartition(".")[2]))
