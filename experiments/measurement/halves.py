"""16-bit keys and values between caches and files: numpy has no bfloat16, so its bits travel as unsigned integers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.kernels import arrays

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array


def to_file(x: Array) -> NDArray[Any]:
    """Keys or values of any type as the cache would hold them: float16, or the bits of bfloat16 as uint16."""
    xp = np if arrays.on_host() else arrays.namespace(x)
    held = arrays.half(xp, arrays.held(xp, x))
    if isinstance(held, np.ndarray):
        return held
    import mlx.core as mx

    return np.array(held.view(mx.uint16) if held.dtype == mx.bfloat16 else held)


def from_file(x: NDArray[Any]) -> Array:
    """The array that a cache takes in; memory-mapped arrays stay mapped on the CPU."""
    if arrays.on_host():
        return x
    import mlx.core as mx

    held = mx.array(x)
    return held.view(mx.bfloat16) if held.dtype == mx.uint16 else held


def single(x: NDArray[Any]) -> NDArray[np.float32]:
    """The file's values in float32."""
    wide: NDArray[np.float32] = arrays.single(np, arrays.to_numpy(from_file(x)))
    return wide
