"""How many workers this machine can feed: cores, memory and GPUs that this process may use."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.experiments.environment import cores

if TYPE_CHECKING:
    from swarm.experiments.spec import Device

GIB = 2**30
WORKER_BYTES = 2.25 * GIB
"""What one worker may keep in memory: its models, captures and working arrays."""
RESERVED_BYTES = 1 * GIB
"""For Ray's own processes, the driver and the rest of the machine."""
CUDA_BYTES = 1 * GIB
"""What CUDA itself takes of a GPU in every process: its context, kernels, and what its libraries work in."""
CORES_PER_GPU_WORKER = 2
"""One for a worker's Python, which launches the kernels, and one for what works beside it: the driver, compilations."""
MAX_WORKERS_PER_GPU = 8
"""Processes that take turns on one GPU; each waits for the others' kernels."""


def memory() -> int:
    """Bytes of memory that this process may use, container limits included."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(name)
        if text.isdigit():
            return min(physical, int(text))
    return physical


def gpus() -> int:
    """CUDA devices that MLX would compute on; 0 on CPU and Metal."""
    from swarm.experiments.environment import device

    if device() != "cuda":
        return 0
    import mlx.core as mx

    return max(1, int(mx.device_count(mx.gpu)))


def gpu_memory() -> float:
    """Free bytes of the GPU that MLX computes on; what other processes hold is not free."""
    import mlx.core as mx

    return float(mx.device_info().get("free_memory", 0))


def workers_per_gpu(cores: int, free: float = inf, needs: float = 1.0) -> int:
    """How many workers share a GPU: as its cores and its memory allow.

    Args:
        cores: for the workers of one GPU.
        free: bytes of the GPU; without bound where they are not known.
        needs: bytes of the GPU that one worker may come to hold.
    """
    return max(1, int(min(cores // CORES_PER_GPU_WORKER, free / needs, MAX_WORKERS_PER_GPU)))


def default_workers(device: Device, needs: float) -> int:
    """Several workers per GPU, or one per core as far as the memory goes; Metal's GPU takes one.

    Args:
        device: what the trials run on.
        needs: bytes of a GPU that one worker may come to hold; of no account elsewhere.
    """
    if device == "metal":
        return 1
    by_memory = int((memory() - RESERVED_BYTES) / WORKER_BYTES)
    if device == "cuda":
        by_gpus = gpus() * workers_per_gpu(cores() // gpus(), gpu_memory(), needs)
        return max(1, min(by_gpus, by_memory))
    return max(1, min(cores(), by_memory))


def describe() -> str:
    """Cores and memory in a few words."""
    return f"{cores()} cores, {memory() / GIB:.1f} GiB of memory"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
