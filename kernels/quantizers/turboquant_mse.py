"""TurboQuant's quantizer for the mean squared error: a norm, and an optimal scalar code per rotated coordinate."""

from __future__ import annotations

from swarm.kernels import arrays, bits, codebooks
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers import _vectors
from swarm.kernels.quantizers.base import Choices, Quantizer


class TurboquantMse(Quantizer):
    """x ~ |x| c[q_i], with c the Lloyd-Max codebook of a random unit vector's coordinates; x comes rotated.

    Layout per token and head: `codes` uint8 [B, H, T, D * bits / 8], low bits first; `norms` float16 [B, H, T, 1].
    """

    name = "turboquant_mse"
    source = "2504.19874"
    summary = "rotated coordinates on the optimal codebook of the sphere, and a norm"
    formula = "b + 16/d"
    choices = Choices(bits=(4, 3, 2, 5, 1), rotations=("hadamard", "random"), scalings=("fixed", "learned"))

    @property
    def codebook(self) -> codebooks.Codebook:
        """The codebook of this head size."""
        return codebooks.sphere(self.head_dim, self.bits)

    @property
    def constant_nbytes(self) -> int:
        """The codebook."""
        return self.codebook.values.nbytes

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Norms, then the nearest codebook value of every coordinate of the direction."""
        values = arrays.single(xp, x)
        norm = _vectors.norms(xp, values)
        codes = _vectors.encode(xp, _vectors.directions(xp, values, norm), self.codebook)
        return {"codes": bits.pack(xp, codes, self.bits), "norms": norm.astype(xp.float16)}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode: |x| c[q], still rotated."""
        directions = bits.lookup(xp, packed["codes"], self.bits, self.codebook.values)
        return directions * arrays.single(xp, packed["norms"])

    def bits_per_value(self) -> float:
        """Code bits plus a 16-bit norm per vector."""
        return self.bits + 16 / self.head_dim

    def form(self) -> PackedForm:
        """The layout above."""
        book = self.codebook
        edges = book.edges[len(book.values) // 2 :]
        return PackedForm(
            self.bits,
            self.head_dim,
            "book",
            1,
            scales_name="norms",
            book=book.values,
            encoder="nearest",
            edges=edges,
        )
