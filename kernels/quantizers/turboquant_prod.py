"""TurboQuant's quantizer for inner products: one bit less per coordinate, and a sign sketch of what is left over."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from swarm.kernels import arrays, bits, codebooks
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.quantizers import _vectors
from swarm.kernels.quantizers.base import Choices, Quantizer
from swarm.kernels.rotation import Linear


class TurboquantProd(Quantizer):
    """x ~ |x| c[q] + sqrt(pi / 2) / d |r| S^T sign(S r): c has 2^(bits - 1) values, r is what c leaves over.

    S is a seeded d x d Gaussian matrix, so inner products with the estimate are unbiased. Decoded vectors have 2 D
    channels: c's part, and the signs times |r|; queries bring (q, sqrt(pi / 2) / d S q).

    Layout per token and head: `codes` uint8 [B, H, T, D * (bits - 1) / 8], `signs` uint8 [B, H, T, D / 8], low bits
    first, 1 for positive; `norms` float16 [B, H, T, 2] holds |x| and |r|.
    """

    name = "turboquant_prod"
    source = "2504.19874"
    summary = "turboquant_mse with one bit spent on an unbiased sketch of the residual"
    formula = "b + 32/d"
    choices = Choices(bits=(4, 3, 2, 5), rotations=("hadamard", "random"), scalings=("fixed", "learned"))

    @property
    def codebook(self) -> codebooks.Codebook:
        """The codebook of the first stage."""
        return codebooks.sphere(self.head_dim, self.bits - 1)

    @property
    def constant_nbytes(self) -> int:
        """The codebook; S follows from the seed."""
        return self.codebook.values.nbytes

    @cached_property
    def sketch(self) -> tuple[Linear, Linear]:
        """The maps r -> S r and z -> S^T z."""
        return _vectors.sketch(self.head_dim, self.head_dim, self.seed)

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """First stage, then the signs and norm of its residual."""
        values = arrays.single(xp, x)
        norm = _vectors.norms(xp, values)
        codes = _vectors.encode(xp, _vectors.directions(xp, values, norm), self.codebook)
        packed = bits.pack(xp, codes, self.bits - 1)
        held = norm.astype(xp.float16)
        rest = values - self._coarse(xp, packed, held)
        signs = (self.sketch[0](rest) > 0).view(xp.uint8)
        norms = xp.concatenate([held, _vectors.norms(xp, rest).astype(xp.float16)], axis=-1)
        return {"codes": packed, "signs": bits.pack(xp, signs, 1), "norms": norms}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode to 2 D channels: |x| c[q], and |r| times the signs."""
        norms = packed["norms"]
        signs = _vectors.signs(xp, packed["signs"])
        signs *= arrays.single(xp, norms[..., 1:])
        return xp.concatenate([self._coarse(xp, packed["codes"], norms[..., :1]), signs], axis=-1)

    def _coarse(self, xp: Namespace, codes: Array, norms: Array) -> Array:
        return bits.lookup(xp, codes, self.bits - 1, self.codebook.values) * arrays.single(xp, norms)

    def query(self, q: Array) -> Array:
        """(q, sqrt(pi / 2) / d S q), [..., 2 D]."""
        xp = arrays.namespace(q)
        return xp.concatenate([q, self.sketch[0](q) * self._weight], axis=-1)

    def output(self, o: Array) -> Array:
        """First half plus sqrt(pi / 2) / d S^T of the second, [..., D]."""
        dim = self.head_dim
        return o[..., :dim] + self.sketch[1](o[..., dim:]) * self._weight

    @property
    def _weight(self) -> float:
        return float(np.sqrt(np.pi / 2) / self.head_dim)

    def bits_per_value(self) -> float:
        """Code and sign bits plus two 16-bit norms per vector."""
        return self.bits + 32 / self.head_dim
