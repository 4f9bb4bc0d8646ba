"""Apple silicon through MLX's Metal back-end."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from swarm.kernels.backends.base import Backend

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Packed
    from swarm.kernels.fused.encode import FusedEncode
    from swarm.kernels.fused.wiring import FusedDecode
    from swarm.kernels.quantizers.base import Quantizer


class Metal(Backend):
    """MLX on Metal."""

    name = "metal"
    remedy = "It needs a Mac with Apple silicon: `pip install mlx` there."

    @classmethod
    def available(cls) -> bool:
        """Whether MLX finds a Metal device."""
        import mlx.core as mx

        return bool(mx.metal.is_available())

    def device_name(self) -> str:
        """The chip's name."""
        import mlx.core as mx

        return str(mx.device_info().get("device_name", "Metal"))

    def pack(self, quantizer: Quantizer, x: Array) -> Packed:
        """One launch for a format that the kernels write, the method's own operations for all else."""
        packed = _encode()(quantizer.form(), x)
        return super().pack(quantizer, x) if packed is None else packed

    @property
    def fused(self) -> FusedDecode:
        """The kernels of `kernels/fused/source`."""
        return _fused()


@cache
def _fused() -> FusedDecode:
    from swarm.kernels.fused import devices
    from swarm.kernels.fused.gpu import Gpu
    from swarm.kernels.fused.wiring import FusedDecode

    return FusedDecode(Gpu("metal"), devices.metal)


@cache
def _encode() -> FusedEncode:
    from swarm.kernels.fused.encode import FusedEncode
    from swarm.kernels.fused.gpu import Gpu

    return FusedEncode(Gpu("metal"))
