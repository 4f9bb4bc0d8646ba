"""How many workers this machine can feed: cores, memory and GPUs that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from swarm.experiments.environment import cores

GIB = 2**30
WORKER_BYTES = 2.25 * GIB
"""What one worker may keep in memory: its models, captures and working arrays."""
RESERVED_BYTES = 1 * GIB
"""For Ray's own processes, the driver and the rest of the machine."""


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


def default_workers() -> int:
    """One worker per GPU, or one per core as far as the memory goes; Metal has one GPU."""
    from swarm.experiments.environment import device

    kind = device()
    if kind == "cuda":
        return gpus()
    if kind == "metal":
        return 1
    return max(1, min(cores(), int((memory() - RESERVED_BYTES) / WORKER_BYTES)))


def describe() -> str:
    """Cores and memory in a few words."""
    return f"{cores()} cores, {memory() / GIB:.1f} GiB of memory"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
