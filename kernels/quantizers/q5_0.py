"""ggml's q5_0: 32 five-bit codes under one signed 16-bit scale."""

from __future__ import annotations

from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _ggml
from swarm.kernels.quantizers.base import Choices


class GgmlQ50(_ggml.ExtremeBlock):
    """x ~ d (q - 16), d = (the value of largest magnitude, with its sign) / -16.

    22 bytes: d, the 32 fifth bits as a little-endian uint32, then 16 bytes of nibbles as in q4_0.
    """

    name = "q5_0"
    source = "llama.cpp (ggml-quants)"
    summary = "5-bit blocks of 32 whose extreme value is exact"
    formula = "5 + 16/32 = 5.5"
    choices = Choices(bits=(5,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 22

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            5, _ggml.BLOCK, "unsigned", 1, block=self.block_bytes, halves=True, codes_name="blocks", encoder="extreme"
        )
