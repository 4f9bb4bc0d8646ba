"""What a compute back-end provides: where arrays live, how new tokens are packed, how attention is computed.

Without kernels of its own a back-end computes attention in MLX operations, chunk by chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Self

from swarm.kernels import arrays, plugins
from swarm.kernels.errors import BackendError

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Namespace, Packed
    from swarm.kernels.attention import StoredView
    from swarm.kernels.fused.wiring import FusedDecode
    from swarm.kernels.quantizers.base import Quantizer
    from swarm.kernels.side import CacheSide, SideView

PACKAGE = "swarm.kernels.backends"


class Backend(ABC):
    """One kind of device. `name` is the module's; `remedy` says how to get the back-end where it is missing."""

    name: ClassVar[str]
    remedy: ClassVar[str]

    @classmethod
    @abstractmethod
    def available(cls) -> bool:
        """Whether this machine and this installation of MLX can use it."""

    @abstractmethod
    def device_name(self) -> str:
        """The device in words."""

    @property
    def xp(self) -> Namespace:
        """The library whose arrays hold the cache: mlx.core, or numpy on the CPU."""
        import mlx.core as mx

        return mx

    def pack(self, quantizer: Quantizer, x: Array) -> Packed:
        """Packed arrays of finite vectors [B, H, T, D], already rotated and scaled: what a cache appends."""
        return quantizer.pack(self.xp, x)

    def append(self, sides: tuple[CacheSide, CacheSide], fresh: tuple[Array, Array]) -> tuple[SideView, SideView]:
        """Take new keys and values [B, H, T, D] of 16 bit into the sides of a layer; what attention of them reads."""
        key, value = (side.append(self.xp, x) for side, x in zip(sides, fresh, strict=True))
        return key, value

    def __deepcopy__(self, memo: object) -> Self:
        """Copies of a cache stay on the same device."""
        return self

    @property
    def fused(self) -> FusedDecode | None:
        """Fused attention over packed caches, where the back-end has it."""
        return None

    def attend(
        self, view: StoredView, queries: Array, scale: float, mask: Array | str | None, sinks: Array | None = None
    ) -> Array:
        """Attention output [B, Hq, L, Dv] of MLX queries [B, Hq, L, Dk] over the stored keys and values.

        `sinks` [Hq] are learned logits, one per query head, that take part in its softmax without a value.

        The fused kernels for one query token in a format that they know; MLX's fused attention over an unpacked layer
        for several; MLX operations on chunks of columns for all else.
        """
        if queries.shape[2] == 1 and self.fused is not None:
            found = self.fused.attend(view, queries, scale, mask, sinks)
            if found is not None:
                return found
        from swarm.kernels.backends import _mlx_operations, _mlx_unpacked

        out = None if queries.shape[2] == 1 else _mlx_unpacked.attend(view, queries, scale, mask, sinks)
        return _mlx_operations.attend(view, queries, scale, mask, sinks) if out is None else out


def backend(name: str) -> Backend:
    """The back-end of that name.

    Raises:
        UnknownNameError: no such back-end.
        BackendError: it is not available here; the remedy says what to install.
    """
    kind = plugins.load(PACKAGE, Backend, name)  # type: ignore[type-abstract]
    if not kind.available():
        raise BackendError(f"The {name} back-end is not available on this machine.", kind.remedy)
    return _instance(kind)


@cache
def _instance(kind: type[Backend]) -> Backend:
    """One back-end per process, since it keeps the kernels that MLX compiled for it."""
    return kind()


def current() -> Backend:
    """The back-end of MLX's default device."""
    import mlx.core as mx

    if arrays.on_host():
        return backend("cpu")
    return backend("metal" if mx.metal.is_available() else "cuda")
