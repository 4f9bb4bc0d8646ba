"""The packed cache for models that read keys and values, or latents, as arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from swarm.kernels import arrays, attention
from swarm.kernels.attention import StoredView
from swarm.kernels.batch_cache import BatchView, PackedBatchCache
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import ModelError
from swarm.kernels.last_view import HandsOutArrays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.kernels.arrays import Array, Namespace
    from swarm.kernels.side import SideView


class LatentView(StoredView):
    """Latents, the keys, and the rest of the keys, both packed, as one query token reads them in a fused kernel."""


class ArrayKVCache(HandsOutArrays, PackedKVCache):
    """A packed cache that hands out unpacked 16-bit arrays [B, H, columns, D] of keys and of values.

    Multi-head latent attention (2405.04434) expands the latent for several tokens at a time and reads it as keys and
    values for one: then the arrays come back to mlx-lm's attention, which reads the packed ones in their place. One
    array serves all queries of a call, so that they read what the last of them does: a token that a residual window or
    an open block kept in 16 bit for the earlier ones may be packed.

    Where a fused kernel scores the rotary part as well, nothing is unpacked for one token: the model gets the identity
    in the place of rotary parts, so that the scores that it adds are the rotary part of its queries, times the scale.
    """

    latent = False  # whether the layer reads its keys as values, with the scores of what it calls values added
    _unpacked = True  # whether the last call handed out what is stored

    @classmethod
    def merge(cls, caches: Sequence[PackedKVCache]) -> PackedBatchCache:
        """One cache for a batch of sequences; the caches belong to it from now on."""
        return ArrayBatchCache(caches)

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Array, ...]:
        """Take in the keys and values [B, H, T, D] of new tokens; returns what a mask of `make_mask` covers."""
        super().update_and_fetch(keys, values)
        view: StoredView = self._view  # type: ignore[assignment]
        attention.tell(view)
        fused = self.backend.fused
        self._unpacked = not (self.latent and keys.shape[2] == 1 and fused is not None and fused.takes_latent(view))
        if not self._unpacked:
            self._handed = keys, _identity(values.shape[-1], values.dtype)
            return self._handed
        low = self.offset - keys.shape[2] - self.mask_columns(view.start)
        xp = self.backend.xp
        self._handed = tuple(_array(xp, side, low, fresh) for side, fresh in ((view.key, keys), (view.value, values)))
        return self._handed

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        """mlx-lm's mask for N new tokens: an array wherever a window hides tokens, as the model applies it itself."""
        hides = self.window is not None and self.offset + N > self.window
        return super().make_mask(N, return_array or hides, window_size)

    def latent_view(self) -> StoredView:
        """The view of the last call that reads its keys as values too."""
        view = self._last()
        if self._unpacked:
            return StoredView(self, view.key, view.key, (view.fresh[0],) * 2)
        return LatentView(self, view.key, view.value, (view.fresh[0],) * 2)

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, D] over the columns of a view of this cache, by its back-end."""
        if not isinstance(view, LatentView):
            return super().attend(view, queries, scale, mask, sinks)
        rotary, fused = view.value.codec.head_dim, self.backend.fused
        if fused is None or mask is None or isinstance(mask, str) or mask.shape[-1] != rotary or sinks is not None:
            raise ModelError(
                f"Layer {self.layer} of {self.family} does not add the scores of {rotary} rotary channels alone.",
                "Its latents cannot be packed on this device: choose another model.",
            )
        import mlx.core as mx

        scale *= self.logit_gain
        return fused.attend_latent(view, queries, mask.astype(mx.float32) / scale, scale)

    def fresh(self) -> Self:
        """A cache for the same layer with nothing in it."""
        other = super().fresh()
        other.latent = self.latent
        return other


@lru_cache(maxsize=8)
def _identity(size: int, dtype: Any) -> Array:
    """The identity of a size, [1, 1, size, size]."""
    import mlx.core as mx

    identity = mx.eye(size, dtype=dtype)[None, None]
    mx.eval(identity)
    return identity


class ArrayBatchCache(HandsOutArrays, PackedBatchCache):
    """A batch of such caches, whose arrays [B, H, columns, D] are right-aligned.

    Where a sequence has fewer columns they are 0, and the masks of `make_mask` hide them.
    """

    together = False

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Array, ...]:
        """Take in the keys and values [B, H, T, D] of new tokens; returns what a mask of `make_mask` covers."""
        import mlx.core as mx

        view: BatchView = super().update_and_fetch(keys, values)[0]
        length, rows = keys.shape[2], list(zip(self.rows, view.views, view.parts, strict=True))
        old = max(row.mask_columns(row.offset if seen is None else seen.start) for row, seen, _ in rows)
        handed: list[list[Array]] = [[], []]
        for row, seen, (_, high) in rows:
            for out, fresh, side in zip(handed, (keys, values), ("key", "value"), strict=True):
                if seen is None:
                    out.append(mx.zeros((1, fresh.shape[1], old + length, fresh.shape[3]), fresh.dtype))
                    continue
                first = seen.start - row.mask_columns(seen.start)
                columns = _array(row.backend.xp, getattr(seen, side), first, fresh)
                missing = old + high - columns.shape[2]
                out.append(mx.pad(columns, [(0, 0), (0, 0), (missing, length - high), (0, 0)]))
        self._handed = tuple(mx.concatenate(out) for out in handed)
        return self._handed

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: N803
        """mlx-lm's mask for N new tokens; an array wherever some sequence has fewer columns than others."""
        import mlx.core as mx

        if self._real is None and len({row.offset for row in self.rows}) == 1:
            return super().make_mask(N, return_array, window_size)
        masks = [row.make_mask(N, True, window_size) for row in self.rows]
        shapes = [(N, row.mask_columns(row.offset) + N) for row in self.rows]
        full = [mx.ones(shape, mx.bool_) if mask is None else mask for mask, shape in zip(masks, shapes, strict=True)]
        stacked = self.stacked(full)
        before = [
            (stacked.shape[-1] - N + low if low else 0) for low, _ in self._parts(N)
        ]  # a prompt padded on the left
        return stacked & (mx.arange(stacked.shape[-1]) >= mx.array(before)[:, None, None, None])

    def latent_view(self) -> StoredView:
        """The view of the last call that reads its keys as values too."""
        view: BatchView = self._last()  # type: ignore[assignment]
        latents = [
            None if seen is None else StoredView(row, seen.key, seen.key, (seen.fresh[0],) * 2)
            for row, seen in zip(self.rows, view.views, strict=True)
        ]
        return BatchView(self, latents, view.parts, (view.fresh[0],) * 2)


def _array(xp: Namespace, side: SideView, low: int, fresh: Array) -> Array:
    """Columns from `low` on as one array of the type of `fresh`, in the model's own frame."""
    import mlx.core as mx

    parts = []
    for start, stop, form in side.spans(low, side.offset):
        if form != "half":
            vectors = side.packed(xp, start, stop)
            plain = side.codec.output(vectors)
            if side.part is not None:
                plain = plain + side.part.keys(xp, start, stop)
        else:
            plain = side.half(start, stop)
        parts.append(arrays.to_mlx(plain).astype(fresh.dtype))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
