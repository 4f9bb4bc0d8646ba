"""NVIDIA GPUs through MLX's CUDA back-end."""

from __future__ import annotations

from swarm.kernels.backends._gpu import FusedBackend
from swarm.kernels.fused.launch import Gpu
from swarm.kernels.fused.plan import cuda_device


class Cuda(FusedBackend):
    """MLX on CUDA: it keeps no kernel of ours on disk, and compiles each for 1.5 s or more in every process."""

    least_packed = 2**22
    name = "cuda"
    remedy = "It needs an NVIDIA GPU and MLX's CUDA build: `uv sync --no-group cpu --group cuda`."

    def __init__(self) -> None:
        super().__init__(Gpu("cuda"), cuda_device)

    @classmethod
    def available(cls) -> bool:
        """Whether MLX finds a CUDA device."""
        import mlx.core as mx

        return bool(mx.cuda.is_available())
