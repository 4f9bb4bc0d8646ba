"""Apple silicon through MLX's Metal back-end."""

from __future__ import annotations

from swarm.kernels.backends._gpu import FusedBackend
from swarm.kernels.fused.launch import Gpu
from swarm.kernels.fused.plan import metal_device


class Metal(FusedBackend):
    """MLX on Metal."""

    name = "metal"
    remedy = "It needs a Mac with Apple silicon: `pip install mlx` there."

    def __init__(self) -> None:
        super().__init__(Gpu("metal"), metal_device)

    @classmethod
    def available(cls) -> bool:
        """Whether MLX finds a Metal device."""
        import mlx.core as mx

        return bool(mx.metal.is_available())
