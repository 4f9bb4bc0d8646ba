"""Quantizes and packs new tokens in one kernel launch.

MLX gives a custom kernel no way to write into an existing buffer: the kernel packs what is new, and the cache's own
slice update, which MLX does in place, puts it where it belongs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from swarm.kernels.fused.form import ENCODERS, PackedForm
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, Kernel

if TYPE_CHECKING:
    from swarm.kernels.fused.launch import Array, Launcher

SIMDGROUPS = 4
LANES = 32


class FusedEncode:
    """Packed arrays of vectors, bit for bit those of the methods' own encoders in numpy."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher
        self._kernels: dict[tuple[object, ...], Kernel] = {}

    def __call__(self, form: PackedForm | None, x: Array) -> dict[str, Array] | None:
        """Packed arrays [B, H, T, ...] of finite vectors x [B, H, T, D]; None where no kernel writes the form."""
        if form is None or form.encoder is None or 0 in x.shape:
            return None
        x = typed(form, x)
        key = (form.key, x.shape, x.dtype)
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = _kernel(form, x)
        arrays = [x] if form.edges is None else [x, edges_of(form)]
        return dict(zip(_names(form), self.launcher.run(kernel, arrays), strict=True))


def typed(form: PackedForm, x: Array) -> Array:
    """Vectors in the type that an encoder takes: scales and biases have that of what is quantized."""
    import mlx.core as mx

    return x.astype(mx.float16) if x.dtype == mx.float32 and layout(form) == "affine" else x


def layout(form: PackedForm) -> Literal["affine", "blocks", "norms", "minifloats"]:
    """What a packed vector consists of."""
    if form.codes == "minifloat":
        return "minifloats"
    return "blocks" if form.block else "affine" if form.meta == 2 else "norms"


def _names(form: PackedForm) -> tuple[str, ...]:
    """The packed arrays in the order in which a kernel writes them."""
    wanted = (form.codes_name, form.scales_name, form.biases_name)
    return tuple(name for name in wanted if name is not None)


def _kernel(form: PackedForm, x: Array) -> Kernel:
    import mlx.core as mx

    batch, heads, tokens, dim = x.shape
    kind = layout(form)
    template: list[tuple[str, Any]] = [
        ("KIND", ENCODERS.index(form.encoder)),
        ("BITS", form.bits),
        ("GROUP", form.group),
        ("DIM", dim),
        ("HALVES", int(form.halves)),
        ("SIMDS", SIMDGROUPS),
    ]
    template += {"affine": [("S", x.dtype)], "blocks": [("META", form.meta)]}.get(kind, [])
    inputs = [("x", x.dtype)] if form.edges is None else [("x", x.dtype), ("edges", mx.float32)]
    names = {
        "affine": ("codes", "scales", "biases"),
        "blocks": ("codes",),
        "norms": ("codes", "norms"),
        "minifloats": ("codes", "scales"),
    }[kind]
    outputs = tuple((name, *rest) for name, rest in zip(names, _outputs(form, x), strict=True))
    grid = (-(-tokens // SIMDGROUPS), heads, batch)
    return Kernel(f"encode_{kind}", tuple(template), tuple(inputs), outputs, grid, LANES * SIMDGROUPS)


def _outputs(form: PackedForm, x: Array) -> list[tuple[tuple[int, ...], Any]]:
    """Shape and type of the packed arrays."""
    import mlx.core as mx

    rows, dim = tuple(x.shape[:-1]), x.shape[-1]
    groups = (*rows, dim // form.group)
    if form.block:
        return [((*rows, dim // form.group * form.block), mx.uint8)]
    if form.codes == "minifloat":
        return [((*rows, dim * form.bits // 32), mx.uint32), (groups, mx.uint8)]
    if form.biases_name is None:
        return [((*rows, dim * form.bits // 8), mx.uint8), (groups, mx.float16)]
    return [((*rows, dim * form.bits // 32), mx.uint32), (groups, x.dtype), (groups, x.dtype)]


def stored_parts(form: PackedForm, x: Array) -> list[tuple[str, tuple[int, ...], Any]]:
    """Name, shape and type of the packed arrays of vectors x [B, H, T, D] of a 16-bit type."""
    return [(name, *rest) for name, rest in zip(_names(form), _outputs(form, x), strict=True)]


def edges_of(form: PackedForm) -> Array:
    """The edges of a form's codebook on the device; of a form without one something that no kernel reads."""
    return _edges(form.edge_bytes)


@lru_cache(maxsize=64)
def _edges(values: bytes) -> Array:
    """The edges of a codebook on the device, padded to the least size of an input."""
    import mlx.core as mx

    edges = np.frombuffer(values, np.float32)
    table = mx.array(np.pad(edges, (0, max(0, MIN_INPUT_ELEMENTS - edges.size)), constant_values=np.float32(3e38)))
    mx.eval(table)
    return table
