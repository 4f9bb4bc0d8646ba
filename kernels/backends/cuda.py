"""NVIDIA GPUs through MLX's CUDA back-end."""

from __future__ import annotations

from swarm.kernels.backends.base import Backend


class Cuda(Backend):
    """MLX on CUDA."""

    name = "cuda"
    remedy = "It needs an NVIDIA GPU and MLX's CUDA build: `uv sync --no-group cpu --group cuda`."

    @classmethod
    def available(cls) -> bool:
        """Whether MLX finds a CUDA device."""
        import mlx.core as mx

        return bool(mx.cuda.is_available())

    def device_name(self) -> str:
        """The GPU's name."""
        import mlx.core as mx

        return str(mx.device_info().get("device_name", "CUDA"))
