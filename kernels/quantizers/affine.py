"""MLX's own group quantization, so that packed caches are what `mx.quantize` makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from swarm.kernels import arrays, bits
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers.base import Choices, Quantizer
from swarm.kernels.values import HALF_MAX

_LEAST_SCALE = 1e-7  # of MLX
_MAX_HALF_BITS = 4  # of codes beside which the rounding of a 16-bit sum does not count


class Affine(Quantizer):
    """x ~ scale * code + bias per group of channels of one token, exactly as `mx.quantize(mode="affine")`.

    Layout per token and head: `codes` uint32 [B, H, T, D * bits / 32], code i in bits [i * b, (i + 1) * b) of the
    little-endian stream; `scales` and `biases` 16 bit [B, H, T, D / group_size].
    """

    name = "affine"
    source = "MLX (mx.quantize)"
    summary = "MLX group quantization with scale and bias"
    formula = "b + 32/g"
    transient_bytes = 4
    choices = Choices(bits=(4, 8, 6, 5, 3, 2), group_sizes=(64, 32, 128), scalings=("fixed", "learned"))
    largest = HALF_MAX  # the 16-bit form of the vectors is what is quantized

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Quantize the 16-bit form of x, so that scale and bias are 16 bit."""
        import mlx.core as mx

        values = arrays.half(xp, x)
        if xp is not np:
            return self._by_operations(values)
        parts = mx.quantize(arrays.to_mlx(values), group_size=self.group, bits=self.bits, stream=arrays.stream(xp))
        return {name: arrays.held(xp, part) for name, part in zip(("codes", "scales", "biases"), parts, strict=True)}

    def _by_operations(self, x: Array) -> Packed:
        """What `mx.quantize` does on a CPU, step by step: its own kernels for GPUs round some quotients otherwise."""
        import mlx.core as mx

        most = 2**self.bits - 1
        values = x.astype(mx.float32).reshape(*x.shape[:-1], -1, self.group)
        low, high = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
        below = mx.abs(low) > mx.abs(high)  # the edge of larger magnitude is exact
        edge = mx.where(below, low, high)
        width = mx.maximum((high - low) / most, _LEAST_SCALE)
        scale = mx.where(below, width, -width)
        steps = mx.round(edge / scale)
        scale = mx.where(steps == 0, scale, edge / steps)
        bias = mx.where(steps == 0, 0.0, edge)
        codes = mx.clip(mx.round((values - bias) / scale), 0, most).astype(mx.uint8).reshape(x.shape)
        packed = bits.pack(mx, codes, self.bits).view(mx.uint32)
        return {"codes": packed, "scales": scale[..., 0].astype(x.dtype), "biases": bias[..., 0].astype(x.dtype)}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode to float32: scale * code + bias."""
        codes = bits.unpack(xp, packed["codes"].view(xp.uint8), self.bits).astype(xp.float32)
        scales, biases = (arrays.single(xp, packed[name])[..., None] for name in ("scales", "biases"))
        groups = codes.reshape(*codes.shape[:-1], -1, self.group)
        groups *= scales
        groups += biases
        return groups.reshape(codes.shape)

    def dense(self, packed: Packed, dtype: Any) -> Array:
        """By MLX's own kernel, in float32 on the way to float32 and where codes have many bits."""
        import mlx.core as mx

        codes, scales, biases = (packed[name] for name in ("codes", "scales", "biases"))
        if self.bits > _MAX_HALF_BITS or dtype == mx.float32:
            scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        return mx.dequantize(codes, scales, biases, group_size=self.group, bits=self.bits).astype(dtype)

    def bits_per_value(self) -> float:
        """Code bits plus a 16-bit scale and bias per group."""
        return self.bits + 32 / self.group

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            self.bits, self.group, "unsigned", 2, scales_name="scales", biases_name="biases", encoder="affine"
        )
