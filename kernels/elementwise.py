"""Activations of mlx-lm models in numpy where the CPU computes: MLX's exponential takes 20 times as long there.

`install` swaps module globals for functions of the same meaning and gradient; `remove` swaps them back. Under
`mx.compile` the originals do the work.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mlx.core as mx

Floats = NDArray[np.float32]
Kernel = Callable[..., None]

# Blocks of this many values stay in a core's cache through all passes over them.
BLOCK = 1 << 15


def _sigmoid_times(x: Floats, argument: Floats, out: Floats) -> None:
    """Write x / (1 + exp(-argument)) to `out`; `argument` is overwritten."""
    np.negative(argument, out=argument)
    np.exp(argument, out=argument)
    argument += 1.0
    np.divide(x, argument, out=out)


def silu(x: Floats, out: Floats) -> None:
    """Sigmoid-weighted linear unit: x sigmoid(x)."""
    _sigmoid_times(x, x.copy(), out)


def swiglu(gate: Floats, x: Floats, out: Floats) -> None:
    """silu(gate) * x."""
    silu(gate, out)
    out *= x


def gelu_approx(x: Floats, out: Floats) -> None:
    """GELU with a tanh: x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    argument = x * x
    argument *= 0.044715
    argument += 1.0
    argument *= x
    argument *= 2.0 * math.sqrt(2.0 / math.pi)
    _sigmoid_times(x, argument, out)


def gelu_fast_approx(x: Floats, out: Floats) -> None:
    """GELU as x sigmoid(1.702 x)."""
    _sigmoid_times(x, 1.702 * x, out)


def gelu(x: Floats, out: Floats) -> None:
    """GELU as x/2 (1 + erf(x / sqrt 2))."""
    from scipy.special import erf

    erf(x * np.float32(1.0 / math.sqrt(2.0)), out=out)
    out += 1.0
    out *= x
    out *= 0.5


# What is replaced: module, the name in it, and the kernel. Other modules that hold the same function follow.
TARGETS: tuple[tuple[str, str, Kernel], ...] = (
    ("mlx.nn.layers.activations", "silu", silu),
    ("mlx.nn.layers.activations", "gelu", gelu),
    ("mlx.nn.layers.activations", "gelu_approx", gelu_approx),
    ("mlx.nn.layers.activations", "gelu_fast_approx", gelu_fast_approx),
    ("mlx_lm.models.activations", "swiglu", swiglu),
)
HOLDERS = ("mlx.nn", "mlx_lm.models")

_installed: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def install() -> bool:
    """Use the numpy activations from now on, also in model families that are imported later; again is harmless.

    Returns:
        Whether they are in use: False where MLX does not compute on the CPU.
    """
    import mlx.core as mx

    if mx.default_device() != mx.cpu:
        return False
    for module_name, name, kernel in TARGETS:
        module = importlib.import_module(module_name)
        if name not in _installed:
            original = getattr(module, name)
            _installed[name] = (original, _replacement(original, kernel))
        original, replacement = _installed[name]
        _swap(name, original, replacement)
    return True


def remove() -> None:
    """Put MLX's own activations back."""
    for name, (original, replacement) in _installed.items():
        _swap(name, replacement, original)
    _installed.clear()


@contextmanager
def suspended() -> Iterator[None]:
    """MLX's own activations for a while: a model that is only traced must not be computed."""
    installed = bool(_installed)
    remove()
    try:
        yield
    finally:
        if installed:
            install()


def _swap(name: str, old: Callable[..., Any], new: Callable[..., Any]) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(HOLDERS) and vars(module).get(name) is old:
            setattr(module, name, new)


def _replacement(original: Callable[..., mx.array], kernel: Kernel) -> Callable[..., mx.array]:
    import mlx.core as mx

    halves = (mx.float16, mx.bfloat16)

    @mx.custom_function
    def on_host(*arrays: mx.array) -> mx.array:
        views = [np.array(array.astype(mx.float32), copy=False) for array in arrays]
        return mx.array(_blockwise(kernel, views)).astype(arrays[0].dtype)

    @on_host.vjp
    def _gradient(primals: Any, cotangent: mx.array, _output: mx.array) -> Any:
        arrays = [primals] if isinstance(primals, mx.array) else list(primals)
        gradients = mx.vjp(original, arrays, [cotangent])[1]
        return gradients[0] if isinstance(primals, mx.array) else tuple(gradients)

    @on_host.jvp
    def _tangent(primals: Any, tangents: Any) -> Any:
        arrays, along = ([x] if isinstance(x, mx.array) else list(x) for x in (primals, tangents))
        return mx.jvp(original, arrays, along)[1][0]

    compute = cast("Callable[..., mx.array]", on_host)

    @functools.wraps(original)
    def replaced(*arrays: mx.array, **named: mx.array) -> mx.array:
        if named:
            return original(*arrays, **named)
        first = arrays[0]
        if (
            any(array.dtype != first.dtype or array.shape != first.shape for array in arrays)
            or (first.dtype != mx.float32 and first.dtype not in halves)
            or mx.default_device() != mx.cpu
        ):
            return original(*arrays)
        # A traced array has no values yet, and says so.
        with suppress(ValueError, RuntimeError):
            return compute(*arrays)
        return original(*arrays)

    return replaced


def _blockwise(kernel: Kernel, views: list[Floats]) -> Floats:
    """The kernel over blocks of the views, which are only read: they are MLX's own memory."""
    out = np.empty(views[0].shape, np.float32)
    flat, target = [view.reshape(-1) for view in views], out.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, target.size, BLOCK):
            block = slice(start, start + BLOCK)
            kernel(*(view[block] for view in flat), target[block])
    return out
