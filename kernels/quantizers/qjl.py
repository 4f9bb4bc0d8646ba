"""QJL: keys as the signs of a Gaussian sketch and a norm, with an unbiased inner product."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from swarm.kernels import arrays, bits
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.quantizers import _vectors
from swarm.kernels.quantizers.base import Choices, Quantizer
from swarm.kernels.rotation import Linear


class Qjl(Quantizer):
    """<q, k> ~ sqrt(pi / 2) / m |k| <S q, sign(S k)> with S a seeded m x d Gaussian matrix and m = bits * d.

    Unbiased, with variance (pi / 2 |q|^2 |k|^2 - <q, k>^2) / m. Decoded keys have m channels: the signs times |k|;
    queries bring sqrt(pi / 2) / m S q.

    Layout per token and head: `signs` uint8 [B, H, T, m / 8], low bits first, 1 for positive; `norms` float16
    [B, H, T, 1].
    """

    name = "qjl"
    source = "2406.03482"
    summary = "signs of a random projection of the keys, unbiased scores"
    formula = "b + 16/d with b = m/d"
    # S is Gaussian, so a rotation before it changes nothing but the seed.
    choices = Choices(bits=(3, 2, 1), rotations=("none",), scalings=("fixed", "learned"), sides=("key",))

    @cached_property
    def sketch(self) -> tuple[Linear, Linear]:
        """The maps k -> S k and z -> S^T z."""
        return _vectors.sketch(self.bits * self.head_dim, self.head_dim, self.seed)

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Signs of S k, and the norm."""
        values = arrays.single(xp, x)
        signs = (self.sketch[0](values) > 0).view(xp.uint8)
        return {"signs": bits.pack(xp, signs, 1), "norms": _vectors.norms(xp, values).astype(xp.float16)}

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode to m channels: |k| times the signs."""
        return _vectors.signs(xp, packed["signs"]) * arrays.single(xp, packed["norms"])

    def query(self, q: Array) -> Array:
        """Scaled sketch sqrt(pi / 2) / m S q, [..., m]."""
        return self.sketch[0](q) * self._weight

    def output(self, o: Array) -> Array:
        """Back to [..., D] by the transposed sketch, the least biased linear reading of the signs."""
        return self.sketch[1](o) * self._weight

    @property
    def _weight(self) -> float:
        return float(np.sqrt(np.pi / 2) / (self.bits * self.head_dim))

    def bits_per_value(self) -> float:
        """Sign bits plus a 16-bit norm per key."""
        return self.bits + 16 / self.head_dim
