"""How decode attention is cut into parts for a device, and which of two kernel bodies computes them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache, lru_cache

TILE_TOKENS = 16  # that a simdgroup takes at a time
DENSE_PART_TOKENS = 64  # 16-bit tokens of one part
MAX_LIGHT_SCALES = 12  # bytes of a head's scales that leave registers for the most resident threadgroups

# The price of a part in units of one step (all simdgroups of a full device taking one tile each): what a threadgroup
# needs besides its tiles, what a step takes of a device that is filled in part, and what a partial costs the merge.
# Fitted to an H100.
_PART_COST = 3.0
_MIN_STEP_COST = 0.5
_STEP_COST, _STEP_COST_PER_FILL = 0.14, 0.86
_MERGE_COST = 0.02

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


@dataclass(frozen=True)
class Device:
    """What of a device decides the plan.

    `threadgroups` of `simdgroups` each fill it once; query groups above `scalar_heads` heads go to the matrix body;
    `ahead` tiles are prefetched. `launch` is what a second launch costs, in steps of one tile by every simdgroup.
    """

    threadgroups: int
    scalar_heads: int
    simdgroups: int
    ahead: int
    launch: float = 0.0


@dataclass(frozen=True)
class DecodePlan:
    """Parts that the packed tokens, the 16-bit tokens before and those behind them are cut into, and the body.

    `terms`: float16 numbers whose sum is a query or a weight in the matrix body, or 0 for the scalar body.
    """

    terms: int
    packed_parts: int
    head_parts: int
    tail_parts: int

    @property
    def parts(self) -> int:
        """Partials per query head."""
        return self.packed_parts + self.head_parts + self.tail_parts


def plan(device: Device, *, counts: tuple[int, int, int], rows: int, group: int, terms: int = 1) -> DecodePlan:
    """The plan for `counts` = packed, head and tail tokens of each of `rows` = batch * KV heads.

    16-bit tokens get a part per few tokens; packed tokens as many parts as finish first. `terms` are those that the
    matrix body would need for packed tokens, 0 where it cannot be.
    """
    packed, head, tail = counts
    most = max(1, device.threadgroups // rows)
    head_parts, tail_parts = (min(-(-count // DENSE_PART_TOKENS), most) for count in (head, tail))
    packed_parts = _packed_parts(device, packed, rows, head_parts + tail_parts)
    return DecodePlan(
        terms if packed_parts and group > device.scalar_heads else 0, packed_parts, head_parts, tail_parts
    )


@lru_cache(maxsize=4096)
def _packed_parts(device: Device, tokens: int, rows: int, others: int) -> int:
    """The number of parts of each row's packed tokens that a model of the device finds fastest; 0 for no tokens.

    `others` are the parts of 16-bit tokens: without them a single part needs no merge.
    """
    if not tokens:
        return 0
    tiles = -(-tokens // TILE_TOKENS)
    finest = -(-tiles // device.simdgroups)
    fills = max(1, device.threadgroups // rows)
    candidates = {min(finest, wave * fills + extra) for wave in range(1, 4) for extra in (0, 1)}
    candidates |= {min(finest, parts) for parts in (*range(1, 9), finest)} if rows * 8 > device.threadgroups else {1}

    def price(parts: int) -> float:
        return _price(device, tiles, rows, parts) + device.launch * (parts + others > 1)

    return min(sorted(candidates), key=price)


def _price(device: Device, tiles: int, rows: int, parts: int) -> float:
    steps = -(-tiles // (parts * device.simdgroups))
    full, rest = divmod(rows * parts, device.threadgroups)
    waves = full * (_PART_COST + steps)
    if rest:
        waves += _PART_COST + steps * max(_MIN_STEP_COST, _STEP_COST + _STEP_COST_PER_FILL * rest / device.threadgroups)
    return waves + _MERGE_COST * parts


def cuda_device(head_dim: int, scale_bytes: int, group: int) -> Device:
    """The current NVIDIA GPU, for heads of `head_dim` channels, so many bytes of scales, and `group` query heads each.

    Registers decide how much is resident: small heads leave room for two threadgroups of eight simdgroups on a
    multiprocessor, others for two or three of four. The matrix body wins from one query head on: the tensor cores
    take the products, and unpacking is what costs.
    """
    light = head_dim <= 128 and scale_bytes <= MAX_LIGHT_SCALES and group <= 8
    simdgroups = 8 if light else 4
    resident = 2 if light or head_dim > 128 or group > 8 else 3
    return Device(multiprocessors() * resident, 0, simdgroups, 1, _CUDA_LAUNCH)


def metal_device(head_dim: int, scale_bytes: int, group: int) -> Device:
    """The current Apple GPU; a prediction, not fitted to measurements.

    Matrix operations run on the same units as scalar ones there, always for eight heads: they pay from five on.
    """
    resident = 3 if head_dim <= 128 and scale_bytes <= MAX_LIGHT_SCALES and group <= 8 else 2
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
