"""ggml's q8_0: 32 signed bytes under one 16-bit scale."""

from __future__ import annotations

from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _ggml
from swarm.kernels.quantizers.base import Choices

# Truncating x + 0.5 would round 0.49999997 up; adding the float below one half is exact for all |x| < 2^23.
_BELOW_HALF = 0.49999997


class GgmlQ80(_ggml.GgmlBlock):
    """x ~ d q with d = max|x| / 127 and q rounded half away from zero; 34 bytes: d, then 32 int8."""

    name = "q8_0"
    source = "llama.cpp (ggml-quants)"
    summary = "8-bit blocks of 32 with an abs-max scale"
    formula = "8 + 16/32 = 8.5"
    choices = Choices(bits=(8,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 34

    def pack_blocks(self, xp: Namespace, x: Array) -> tuple[Array, Array]:
        """Scale and codes."""
        magnitude = xp.abs(x)
        d = xp.max(magnitude, axis=0) / 127
        inverse = _ggml.inverse(xp, d)
        rounded = magnitude * xp.abs(inverse)
        rounded += _BELOW_HALF
        codes = rounded.astype(xp.uint8)
        # Two's complement where x is negative: -q = (q ^ 0xff) + 1.
        negative = (x < 0).view(xp.uint8)
        return _ggml.half_field(xp, d), (codes ^ (negative * 0xFF)) + negative

    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Decode: d q."""
        return blocks[:, 2:].view(xp.int8).astype(xp.float32) * _ggml.read_half(xp, blocks[:, :2])

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(8, _ggml.BLOCK, "signed", 1, block=self.block_bytes, codes_name="blocks", encoder="peak")
