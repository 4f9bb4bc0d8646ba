"""The packed cache for models that read keys and values, or latents, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.kernels import arrays, attention
from swarm.kernels.attention import HandsOutArrays, StoredView
from swarm.kernels.cache import PackedKVCache

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Namespace
    from swarm.kernels.side import SideView


class ArrayKVCache(PackedKVCache, HandsOutArrays):
    """A packed cache that hands out unpacked 16-bit arrays [B, H, columns, D] of keys and of values.

    Multi-head latent attention (2405.04434) expands the latent for several tokens at a time and reads it as keys and
    values for one: then the arrays come back to mlx-lm's attention, which reads the packed ones in their place. Where
    the tokens of a call come in packed only later (residual windows, blocks of tokens), its queries read them in 16
    bit.
    """

    _handed: tuple[Array, ...] = ()

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Array, ...]:
        """Take in the keys and values [B, H, T, D] of new tokens; returns what a mask of `make_mask` covers."""
        super().update_and_fetch(keys, values)
        view: StoredView = self._view  # type: ignore[assignment]
        attention.tell(view)
        low = self.offset - keys.shape[2] - self.mask_columns(view.start)
        xp = self.backend.xp
        self._handed = tuple(_array(xp, side, low, fresh) for side, fresh in ((view.key, keys), (view.value, values)))
        return self._handed

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        """mlx-lm's mask for N new tokens: an array wherever a window hides tokens, as the model applies it itself."""
        hides = self.window is not None and self.offset + N > self.window
        return super().make_mask(N, return_array or hides, window_size)

    def keys_and_values(self) -> tuple[Array, ...]:
        """What the last call of `update_and_fetch` returned."""
        super().keys_and_values()
        return self._handed

    @property
    def keys(self) -> Array:
        """The keys of the last call."""
        return self.keys_and_values()[0]

    @keys.setter
    def keys(self, after: Array) -> None:
        PackedKVCache.keys.fset(self, after)  # type: ignore[attr-defined]

    def view_of(self, keys: Any, values: Any) -> StoredView | None:
        """The view behind the arrays handed out last; one array as keys and values is a latent."""
        if self._view is None or not self._handed or keys is not self._handed[0]:
            return None
        if values is self._handed[1]:
            return self._view
        view = self._view
        return StoredView(self, view.key, view.key, (view.fresh[0],) * 2) if values is keys else None


def _array(xp: Namespace, side: SideView, low: int, fresh: Array) -> Array:
    """Columns from `low` on as one array of the type of `fresh`, in the model's own frame."""
    import mlx.core as mx

    parts = []
    for start, stop, form in side.spans(low, side.offset):
        if form == "packed":
            vectors = side.packed(xp, start, stop)
            plain = side.codec.output(vectors)
            if side.part is not None:
                plain = plain + side.part.keys(xp, start, stop)
        else:
            plain = side.half(start, stop)
        parts.append(arrays.to_mlx(plain).astype(fresh.dtype))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
