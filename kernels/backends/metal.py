"""Apple silicon through MLX's Metal back-end."""

from __future__ import annotations

from swarm.kernels.backends.base import Backend


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
