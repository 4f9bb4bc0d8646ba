"""ggml's q5_0: 32 five-bit codes under one signed 16-bit scale."""

from __future__ import annotations

from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.quantizers import _ggml, _groups
from swarm.kernels.quantizers.base import Choices


class GgmlQ50(_ggml.GgmlBlock):
    """x ~ d (q - 16), d = (the value of largest magnitude, with its sign) / -16.

    22 bytes: d, the 32 fifth bits as a little-endian uint32, then 16 bytes of nibbles as in q4_0.
    """

    name = "q5_0"
    source = "llama.cpp (ggml-quants)"
    summary = "5-bit blocks of 32 whose extreme value is exact"
    formula = "5 + 16/32 = 5.5"
    choices = Choices(bits=(5,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 22

    def pack_blocks(self, xp: Namespace, x: Array) -> tuple[Array, ...]:
        """Scale, fifth bits and nibbles."""
        d = _groups.extremes(xp, x) / -16
        codes = xp.minimum(x * _ggml.inverse(xp, d) + 16.5, 31).astype(xp.uint8)
        return _ggml.half_field(xp, d), *_ggml.pack_five(codes)

    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Decode: d (q - 16)."""
        codes = _ggml.unpack_five(xp, blocks[:, 2:]).astype(xp.float32)
        codes -= 16
        return codes * _ggml.read_half(xp, blocks[:, :2])
