"""The 16-bit baseline: values as the model's 16-bit type holds them. No quantization."""

from __future__ import annotations

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.quantizers.base import Choices, Quantizer


class Unquantized(Quantizer):
    """Stores 16-bit values as they are.

    Layout: `values` 16 bit [B, H, T, D].
    """

    name = "none"
    source = "baseline"
    summary = "16-bit values, not quantized"
    formula = "16"
    choices = Choices(bits=(16,), rotations=("none",))

    @classmethod
    def check_head_dim(cls, spec: QuantSpec, head_dim: int) -> None:
        """Any head size fits."""

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Round to the 16-bit type."""
        return {"values": arrays.half(xp, x)}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Widen to float32."""
        return arrays.single(xp, packed["values"])

    def bits_per_value(self) -> float:
        """Always 16."""
        return 16.0

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(16, self.head_dim, "float16", 0, codes_name="values")
