"""What GPUs there are, as far as the plan of a kernel depends on it. Knows cores and registers; no formats."""

from __future__ import annotations

import ctypes
from functools import cache

from swarm.kernels.fused.plan import Device

# GPU cores of Apple's chips in their largest configuration.
_APPLE_CORES = {
    "M1": 8,
    "M1 Pro": 16,
    "M1 Max": 32,
    "M1 Ultra": 64,
    "M2": 10,
    "M2 Pro": 19,
    "M2 Max": 38,
    "M2 Ultra": 76,
    "M3": 10,
    "M3 Pro": 18,
    "M3 Max": 40,
    "M3 Ultra": 80,
    "M4": 10,
    "M4 Pro": 20,
    "M4 Max": 40,
}
_USUAL_APPLE_CORES = 20
# The price of the merge as a launch of its own, not fitted: a step takes one to two microseconds on an H100, the launch
# 2 on the device and 20 to 25 on the host, which counts where the host is behind.
_CUDA_LAUNCH, _METAL_LAUNCH = 5.0, 3.0
_MULTIPROCESSOR_COUNT = 16  # CUdevice_attribute
_USUAL_MULTIPROCESSORS = 132


def cuda(head_dim: int, groups: int, group: int) -> Device:
    """The current NVIDIA GPU, for heads of `head_dim` channels with `groups` scales and `group` query heads each.

    Registers decide how much is resident: small heads leave room for two threadgroups of eight simdgroups on a
    multiprocessor, others for two or three of four. The matrix body wins from one query head on: the tensor cores
    take the products, and unpacking is what costs.
    """
    light = head_dim <= 128 and groups <= 3 and group <= 8
    simdgroups = 8 if light else 4
    resident = 2 if light or head_dim > 128 or group > 8 else 3
    return Device(multiprocessors() * resident, 0, simdgroups, 1, _CUDA_LAUNCH)


def metal(head_dim: int, groups: int, group: int) -> Device:
    """The current Apple GPU; a prediction, not fitted to measurements.

    Matrix operations run on the same units as scalar ones there, always for eight heads: they pay from five on.
    """
    resident = 3 if head_dim <= 128 and groups <= 2 and group <= 8 else 2
    return Device(_apple_cores() * resident, 4, 4, 0, _METAL_LAUNCH)


@cache
def multiprocessors() -> int:
    """Multiprocessors of the current NVIDIA GPU, or of an H100 where there is none."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) == 0 and driver.cuDeviceGetAttribute(ctypes.byref(count), _MULTIPROCESSOR_COUNT, 0) == 0:
            return count.value
    except OSError:
        pass
    return _USUAL_MULTIPROCESSORS


@cache
def _apple_cores() -> int:
    import mlx.core as mx

    name = str(mx.device_info().get("device_name", "")).removeprefix("Apple ")
    return _APPLE_CORES.get(name, _USUAL_APPLE_CORES)
