"""ggml's q5_1: 32 five-bit codes under a 16-bit scale and minimum."""

from __future__ import annotations

from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.quantizers import _ggml
from swarm.kernels.quantizers.base import Choices


class GgmlQ51(_ggml.GgmlBlock):
    """x ~ min + q d with d = (max - min) / 31; 24 bytes: d, min, then fifth bits and nibbles as in q5_0."""

    name = "q5_1"
    source = "llama.cpp (ggml-quants)"
    summary = "5-bit blocks of 32 with scale and minimum"
    formula = "5 + 32/32 = 6"
    choices = Choices(bits=(5,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 24

    def pack_blocks(self, xp: Namespace, x: Array) -> tuple[Array, ...]:
        """Scale, minimum, fifth bits and nibbles."""
        d, low, codes = _ggml.from_minimum(xp, x, 31)
        return _ggml.half_field(xp, d), _ggml.half_field(xp, low), *_ggml.pack_five(codes)

    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Decode: min + q d."""
        codes = _ggml.unpack_five(xp, blocks[:, 4:]).astype(xp.float32)
        codes *= _ggml.read_half(xp, blocks[:, :2])
        codes += _ggml.read_half(xp, blocks[:, 2:4])
        return codes
