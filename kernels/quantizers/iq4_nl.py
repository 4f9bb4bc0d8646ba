"""ggml's iq4_nl: 32 nibbles that index a table of 16 unevenly spaced values, under one 16-bit scale."""

from __future__ import annotations

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _ggml, _groups
from swarm.kernels.quantizers.base import Choices

TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_SMALLEST = 1e-15  # ggml stores a block whose magnitudes are all below this as zeros
# The midpoints of the table are multiples of one half: floor(2 x) decides between neighbours exactly.
_NEAREST = np.searchsorted(TABLE[1:] + TABLE[:-1], np.arange(-256, 257), side="right").astype(np.uint8)


class GgmlIq4Nl(_ggml.GgmlBlock):
    """x ~ d TABLE[q]: codes by d0 = extreme / -127, then d as the least-squares fit weighted by x^2, as ggml does.

    18 bytes: d, then 16 bytes of nibbles as in q4_0. The `gguf` package only decodes this format; the encoder is
    ggml's reference without a search over scales (what llama.cpp runs for KV caches).
    """

    name = "iq4_nl"
    source = "llama.cpp (ggml-quants)"
    summary = "4-bit blocks of 32 on a non-linear table"
    formula = "4 + 16/32 = 4.5"
    choices = Choices(bits=(4,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 18

    @property
    def constant_nbytes(self) -> int:
        """The table."""
        return TABLE.nbytes

    def pack_blocks(self, xp: Namespace, x: Array) -> tuple[Array, Array]:
        """Fitted scale and nibbles."""
        extreme = _groups.extremes(xp, x)
        steps = x * _ggml.inverse(xp, extreme / TABLE[0].item())
        cells = (2 * steps + 256).astype(xp.uint16)  # never negative, so the cast is a floor
        codes = xp.take(arrays.constant(xp, _NEAREST), cells)
        q = xp.take(arrays.constant(xp, TABLE), codes)
        weighted = x * x * q
        fit = xp.sum(weighted * x, axis=0) / xp.sum(weighted * q, axis=0)
        empty = xp.abs(extreme) < _SMALLEST
        zero = xp.zeros_like(extreme)
        codes = codes * (~empty).view(xp.uint8)
        return _ggml.half_field(xp, xp.where(empty, zero, fit)), _ggml.pack_nibbles(codes)

    def unpack_blocks(self, xp: Namespace, blocks: Array) -> Array:
        """Decode: d TABLE[q]."""
        codes = _ggml.unpack_nibbles(xp, blocks[:, 2:])
        return xp.take(arrays.constant(xp, TABLE), codes) * _ggml.read_half(xp, blocks[:, :2])

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            4, _ggml.BLOCK, "book", 1, block=self.block_bytes, halves=True, codes_name="blocks", book=TABLE
        )
