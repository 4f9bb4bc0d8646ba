"""ggml's q4_0: 32 nibbles under one signed 16-bit scale."""

from __future__ import annotations

from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _ggml
from swarm.kernels.quantizers.base import Choices


class GgmlQ40(_ggml.ExtremeBlock):
    """x ~ d (q - 8), d = (the value of largest magnitude, with its sign) / -8; 18 bytes: d, then 16 bytes of nibbles.

    Byte i holds code i in its low and code i + 16 in its high half.
    """

    name = "q4_0"
    source = "llama.cpp (ggml-quants)"
    summary = "4-bit blocks of 32 whose extreme value is exact"
    formula = "4 + 16/32 = 4.5"
    choices = Choices(bits=(4,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 18

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            4, _ggml.BLOCK, "unsigned", 1, block=self.block_bytes, halves=True, codes_name="blocks", encoder="extreme"
        )
