"""ggml's q4_1: 32 nibbles under a 16-bit scale and minimum."""

from __future__ import annotations

from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _ggml
from swarm.kernels.quantizers.base import Choices


class GgmlQ41(_ggml.MinimumBlock):
    """x ~ min + q d with d = (max - min) / 15; 20 bytes: d, min, then 16 bytes of nibbles as in q4_0."""

    name = "q4_1"
    source = "llama.cpp (ggml-quants)"
    summary = "4-bit blocks of 32 with scale and minimum"
    formula = "4 + 32/32 = 5"
    choices = Choices(bits=(4,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 20

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            4, _ggml.BLOCK, "unsigned", 2, block=self.block_bytes, halves=True, codes_name="blocks", encoder="minimum"
        )
