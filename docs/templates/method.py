"""Template of a quantization method: one sign per value and the mean magnitude of each vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.kernels import arrays, bits
from swarm.kernels.quantizers.base import Choices, Quantizer

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Namespace, Packed


class SignMean(Quantizer):
    """x ~ sign(x) mean|x|.

    Layout per token and head: `signs` uint8 [B, H, T, D / 8], low bits first, 1 for positive; `means` float16
    [B, H, T, 1].
    """

    name = "sign_mean"
    source = "the arXiv id or the project that defines the method"
    summary = "signs under the mean magnitude of a vector"
    formula = "1 + 16/d"
    # Without a rotation one large channel would set the mean of all.
    choices = Choices(bits=(1,), rotations=("hadamard", "random"), scalings=("fixed", "learned"))

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Signs, and the mean magnitude."""
        values = arrays.single(xp, x)
        signs = (values > 0).view(xp.uint8)
        means = xp.mean(xp.abs(values), axis=-1, keepdims=True)
        return {"signs": bits.pack(xp, signs, 1), "means": means.astype(xp.float16)}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode: plus or minus the mean."""
        signs = bits.unpack(xp, packed["signs"], 1).astype(xp.float32)
        return (2 * signs - 1) * arrays.single(xp, packed["means"])

    def bits_per_value(self) -> float:
        """A sign per value and a 16-bit mean per vector."""
        return 1 + 16 / self.head_dim
