"""Quantizes and packs new tokens in one kernel launch.

MLX gives a custom kernel no way to write into an existing buffer: the kernel packs what is new, and the cache's own
slice update, which MLX does in place, puts it where it belongs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.kernels.fused.form import ENCODERS, PackedForm
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, KernelCall

if TYPE_CHECKING:
    from swarm.kernels.fused.launch import Array, Launcher

SIMDGROUPS = 4
LANES = 32


class FusedEncode:
    """Packed arrays of vectors, bit for bit those of the methods' own encoders in numpy."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def __call__(self, form: PackedForm | None, x: Array) -> dict[str, Array] | None:
        """Packed arrays [B, H, T, ...] of finite vectors x [B, H, T, D]; None where no kernel writes the form."""
        if form is None or form.encoder is None or 0 in x.shape:
            return None
        call = _call(form, x)
        return dict(zip((name for name, _, _ in _outputs(form, x)), self.launcher.run(call), strict=True))


def _call(form: PackedForm, x: Array) -> KernelCall:
    import mlx.core as mx

    batch, heads, tokens, dim = x.shape
    layout = "blocks" if form.block else "affine" if form.meta == 2 else "norms"
    if layout == "affine" and x.dtype == mx.float32:
        x = x.astype(mx.float16)  # scales and biases have the type of what is quantized
    template: list[tuple[str, Any]] = [
        ("KIND", ENCODERS.index(form.encoder)),
        ("BITS", form.bits),
        ("GROUP", form.group),
        ("DIM", dim),
        ("HALVES", int(form.halves)),
        ("SIMDS", SIMDGROUPS),
    ]
    template += {"affine": [("S", x.dtype)], "blocks": [("META", form.meta)], "norms": []}[layout]
    inputs = [("x", x)]
    if form.edges is not None:
        inputs.append(("edges", _edges(np.asarray(form.edges, np.float32).tobytes())))
    names = {"affine": ("codes", "scales", "biases"), "blocks": ("codes",), "norms": ("codes", "norms")}[layout]
    outputs = tuple((name, *rest) for name, (_, *rest) in zip(names, _outputs(form, x), strict=True))
    grid = (-(-tokens // SIMDGROUPS), heads, batch)
    return KernelCall(f"encode_{layout}", tuple(template), tuple(inputs), outputs, grid, LANES * SIMDGROUPS)


def _outputs(form: PackedForm, x: Array) -> list[tuple[str, tuple[int, ...], Any]]:
    """Name, shape and type of the packed arrays."""
    import mlx.core as mx

    rows, dim = tuple(x.shape[:-1]), x.shape[-1]
    if form.block:
        return [(form.codes_name, (*rows, dim // form.group * form.block), mx.uint8)]
    if form.biases_name is None:
        norms = (str(form.scales_name), (*rows, dim // form.group), mx.float16)
        return [(form.codes_name, (*rows, dim * form.bits // 8), mx.uint8), norms]
    half = mx.float16 if x.dtype == mx.float32 else x.dtype
    codes = (form.codes_name, (*rows, dim * form.bits // 32), mx.uint32)
    return [codes, *((str(name), (*rows, dim // form.group), half) for name in (form.scales_name, form.biases_name))]


@lru_cache(maxsize=64)
def _edges(values: bytes) -> Array:
    """The edges of a codebook on the device, padded to the least size of an input."""
    import mlx.core as mx

    edges = np.frombuffer(values, np.float32)
    table = mx.array(np.pad(edges, (0, max(0, MIN_INPUT_ELEMENTS - edges.size)), constant_values=np.float32(3e38)))
    mx.eval(table)
    return table
