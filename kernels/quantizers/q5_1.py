"""ggml's q5_1: 32 five-bit codes under a 16-bit scale and minimum."""

from __future__ import annotations

from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _ggml
from swarm.kernels.quantizers.base import Choices


class GgmlQ51(_ggml.MinimumBlock):
    """x ~ min + q d with d = (max - min) / 31; 24 bytes: d, min, then fifth bits and nibbles as in q5_0."""

    name = "q5_1"
    source = "llama.cpp (ggml-quants)"
    summary = "5-bit blocks of 32 with scale and minimum"
    formula = "5 + 32/32 = 6"
    choices = Choices(bits=(5,), group_sizes=(32,), scalings=("fixed", "learned"))
    block_bytes = 24

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            5, _ggml.BLOCK, "unsigned", 2, block=self.block_bytes, halves=True, codes_name="blocks", encoder="minimum"
        )
