"""Routes the attention of every mlx-lm model family to packed caches, and lets others listen to it.

mlx-lm sends caches with an attribute `bits` to one module global; that global is replaced once by a function that
takes our view objects itself and passes everything else on. Computes nothing: back-ends do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.kernels.view import StoredView

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.cache import PackedKVCache


@dataclass(frozen=True, eq=False)
class Recorded:
    """One attention call: the layer's cache, the position of its first token, and its arrays after RoPE.

    `queries` [B, Hq, L, D], `keys` and `values` [B, H, L, D] are those of this call alone, as the model gave them;
    `scale` is the attention scale of the call, without the logit gain.
    """

    cache: PackedKVCache
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


def attend(view: StoredView, queries: Array, scale: float, mask: Array | str | None) -> Array:
    """Attention output [B, Hq, L, D] over the columns of the view, by the cache's back-end."""
    keys, values = view.fresh
    for listener in _listeners.get():
        listener(Recorded(view.cache, view.start, queries, keys, values, scale))
    return view.cache.backend.attend(view, queries, scale * view.cache.logit_gain, mask)


def install() -> None:
    """Put our function in the place of mlx-lm's packed attention; further calls change nothing."""
    from mlx_lm.models import base

    original = base.quantized_scaled_dot_product_attention
    if getattr(original, "attends_packed_caches", False):
        return

    def packed_attention(queries: Array, q_keys: Any, q_values: Any, scale: float, mask: Any, **options: Any) -> Array:
        if isinstance(q_keys, StoredView):
            return attend(q_keys, queries, scale, mask)
        return original(queries, q_keys, q_values, scale=scale, mask=mask, **options)

    packed_attention.attends_packed_caches = True  # type: ignore[attr-defined]
    base.quantized_scaled_dot_product_attention = packed_attention
    _register()


def _register() -> None:
    """Let mlx-lm's `load_prompt_cache` find our class, which it looks up by name in its own module."""
    from mlx_lm.models import cache as mlx_caches

    from swarm.kernels.cache import PackedKVCache

    mlx_caches.PackedKVCache = PackedKVCache
