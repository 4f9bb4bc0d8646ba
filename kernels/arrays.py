"""Which array library computes: numpy on the CPU, MLX on an accelerator; and conversions.

MLX's CPU element-wise operations are several times slower than numpy's on the same memory, so everything that runs
on the CPU takes numpy views of MLX arrays and hands MLX arrays back. Both libraries share the operations used here,
so a method is written once over the namespace `xp`.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.kernels.values import HALF_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

Array = Any  # numpy.ndarray or mlx.core.array
Namespace = Any  # the module numpy or mlx.core
Packed = dict[str, Array]

BFLOAT_MAX = 3.4e38  # about the largest finite bfloat16


def on_host() -> bool:
    """Whether MLX computes on the CPU here."""
    import mlx.core as mx

    return bool(mx.default_device().type == mx.DeviceType.cpu)


def is_host(xp: Namespace) -> bool:
    """Whether the namespace computes on the CPU at once (numpy), so that looking at values costs no wait."""
    return xp is np


def stream(xp: Namespace) -> Any:
    """Where MLX is to compute for a namespace: on the CPU for numpy, as MLX's GPUs round some quotients otherwise."""
    import mlx.core as mx

    return mx.cpu if xp is np else None


def namespace(x: Array) -> Namespace:
    """The library of an array: numpy, or mlx.core."""
    return np if isinstance(x, np.ndarray) else sys.modules["mlx.core"]


def compute(x: Array) -> tuple[Namespace, Array]:
    """The library to compute with and the array as that library's: numpy for MLX arrays on the CPU."""
    if isinstance(x, np.ndarray) or on_host():
        return np, to_numpy(x)
    return namespace(x), x


def to_numpy(x: Array) -> np.ndarray:
    """A numpy array without a copy where the type allows one (bfloat16 becomes float32)."""
    if isinstance(x, np.ndarray):
        return x
    import mlx.core as mx

    if x.dtype == mx.bfloat16:
        x = x.astype(mx.float32)
    return np.array(x, copy=False)


def copy(xp: Namespace, x: Array) -> Array:
    """A contiguous copy that keeps nothing larger alive."""
    return x.copy() if xp is np else xp.contiguous(x)


def compute_now(xp: Namespace, held: Iterable[Array]) -> None:
    """Have arrays computed on an accelerator, so that what they were made of can go; numpy's are."""
    if not is_host(xp):
        xp.eval(*held)


def to_mlx(x: Array) -> Array:
    """An MLX array (a copy of a numpy one)."""
    if not isinstance(x, np.ndarray):
        return x
    import mlx.core as mx

    return mx.array(x)


def like(x: Array, result: Array) -> Array:
    """The result as the library of `x` holds it."""
    return result if isinstance(x, np.ndarray) else to_mlx(result)


def held(xp: Namespace, x: Array) -> Array:
    """An array of either library as the namespace's."""
    return to_numpy(x) if xp is np else to_mlx(x)


def half(xp: Namespace, x: Array) -> Array:
    """The 16-bit form in which K and V are held: float16, or bfloat16 where an accelerator has that already."""
    if xp is np:
        with np.errstate(over="ignore"):
            return x.astype(np.float16, copy=False)
    return x if x.dtype == xp.bfloat16 else x.astype(xp.float16)


def single(xp: Namespace, x: Array) -> Array:
    """The array in float32."""
    if xp is not np:
        return x.astype(xp.float32)
    if x.dtype == np.float16:
        return _widen(x)
    return x.astype(np.float32, copy=False)


def _widen(x: np.ndarray) -> np.ndarray:
    """Finite float16 to float32 by moving the fields: numpy's own cast is three times slower. Exact."""
    fields = np.ascontiguousarray(x).view(np.uint16).astype(np.uint32)
    fields <<= 13
    sign = fields & np.uint32(0x10000000)
    fields &= np.uint32(0x0FFFE000)
    sign <<= 3
    fields |= sign
    wide = fields.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


def peak(xp: Namespace, x: Array) -> float:
    """The largest magnitude; NaN or infinity where the array holds one, 0 for an empty array."""
    if not x.size:
        return 0.0
    if xp is np and x.dtype == np.float16:
        bits = x.view(np.uint16) if x.flags.c_contiguous else np.ascontiguousarray(x).view(np.uint16)
        return float((bits & np.uint16(0x7FFF)).max().view(np.float16))
    return float(xp.abs(x).max().item())


def largest(xp: Namespace, x: Array) -> float:
    """The largest finite magnitude of the 16-bit type that the array is held in."""
    return BFLOAT_MAX if xp is not np and x.dtype == xp.bfloat16 else HALF_MAX


def finite(xp: Namespace, x: Array) -> bool:
    """Whether every value is a finite number that fits the 16-bit type."""
    return peak(xp, x) <= largest(xp, x)


def peak_later(xp: Namespace, x: Array) -> Array:
    """`peak` of an array on an accelerator as an array that is being computed; nothing waits for it."""
    found = xp.abs(x).max()
    xp.async_eval(found)
    return found


@cache
def _constant(xp: Namespace, data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    return array if xp is np else xp.array(array)


def constant(xp: Namespace, array: np.ndarray) -> Array:
    """A fixed small table as an array of the namespace, made once."""
    return _constant(xp, array.tobytes(), array.dtype.str, array.shape)
