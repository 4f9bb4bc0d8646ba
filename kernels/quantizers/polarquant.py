"""PolarQuant: vectors in recursive polar coordinates, an angle code per pair and one radius per 16 coordinates."""

from __future__ import annotations

import numpy as np

from swarm.kernels import arrays, bits, codebooks
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.errors import SpecError
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quant_spec import QuantSpec
from swarm.kernels.quantizers.base import Choices, Quantizer

LEVELS = 4
BLOCK = 1 << LEVELS


class Polarquant(Quantizer):
    """Pairs of coordinates become (radius, angle), pairs of radii again, four times; x comes rotated.

    Angles of level 1 are uniform on [0, 2 pi) and get `bits` bits in equal bins; those of levels 2 to 4 lie in
    [0, pi / 2] with density ~ sin(2a)^(2^(level - 1) - 1) and get `bits - 2` bits on the Lloyd-Max codebook of that
    law. The last radius of every 16 coordinates is kept in 16 bit.

    Layout per token and head: `angles` uint8 [B, H, T, D / 2 * bits / 8 + ceil(7 D / 16 * (bits - 2) / 8)], low bits
    first: codes of level 1, bin k at angle (k + 1/2) 2 pi / n, then those of level 2, then 3, then 4, from a whole byte
    on; `radii` float16 [B, H, T, D / 16].
    """

    name = "polarquant"
    source = "2502.02617"
    summary = "recursive polar angles, each level on the codebook of its own law"
    formula = "(8b + 7(b-2) + 16)/16: 3.875 at b = 4"
    demands = (f"head size a multiple of {BLOCK}",)
    choices = Choices(bits=(4, 5, 3, 6), rotations=("hadamard", "random"), scalings=("fixed", "learned"))

    @classmethod
    def check_head_dim(cls, spec: QuantSpec, head_dim: int) -> None:
        """Blocks are of 16 coordinates."""
        if head_dim % BLOCK:
            raise SpecError(
                f"{spec.label} works on blocks of {BLOCK} coordinates, the head size is {head_dim}.",
                "Choose another method for this model.",
            )

    @property
    def upper_bits(self) -> int:
        """Bits of the angles of levels 2 to 4: they span a quarter of level 1's range."""
        return self.bits - 2

    @property
    def constant_nbytes(self) -> int:
        """The codebooks of the upper levels."""
        return sum(codebooks.angle(level, self.upper_bits).values.nbytes for level in range(2, LEVELS + 1))

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Angles and radii, level by level."""
        values = arrays.single(xp, x)
        first, second = values[..., 0::2], values[..., 1::2]
        angles = self._first_codes(xp, first, second)
        radii = xp.sqrt(first * first + second * second)
        upper = []
        for level in range(2, LEVELS + 1):
            first, second = radii[..., 0::2], radii[..., 1::2]
            upper.append(_count(xp, first, second, codebooks.angle(level, self.upper_bits).edges))
            radii = xp.sqrt(first * first + second * second)
        return {
            "angles": xp.concatenate(
                [bits.pack(xp, angles, self.bits), self._pack_upper(xp, xp.concatenate(upper, axis=-1))], axis=-1
            ),
            "radii": radii.astype(xp.float16),
        }

    def _first_codes(self, xp: Namespace, first: Array, second: Array) -> Array:
        """Equal bins of the full circle: the quadrant, and the bin inside it by the ratio of magnitudes."""
        quarter = 1 << (self.bits - 2)
        edges = np.arange(1, quarter) * (np.pi / 2 / quarter)
        inside = _count(xp, xp.abs(first), xp.abs(second), edges)
        left, below = (first < 0).view(xp.uint8), (second < 0).view(xp.uint8)
        # Bins run counter-clockwise; in the second and fourth quadrant magnitudes count them backwards.
        inside = inside ^ ((left ^ below) * (quarter - 1))
        return (below * 2 + (left ^ below)) * quarter + inside

    def _pack_upper(self, xp: Namespace, codes: Array) -> Array:
        count = codes.shape[-1]
        if count % 8:
            padding = xp.zeros((*codes.shape[:-1], 8 - count % 8), dtype=xp.uint8)
            codes = xp.concatenate([codes, padding], axis=-1)
        return bits.pack(xp, codes, self.upper_bits)[..., : self._upper_bytes]

    @property
    def _upper_count(self) -> int:
        return self.head_dim // BLOCK * (BLOCK // 2 - 1)

    @property
    def _upper_bytes(self) -> int:
        return -(-self._upper_count * self.upper_bits // 8)

    def _unpack_upper(self, xp: Namespace, data: Array) -> Array:
        if missing := -data.shape[-1] % self.upper_bits:
            padding = xp.zeros((*data.shape[:-1], missing), dtype=xp.uint8)
            data = xp.concatenate([data, padding], axis=-1)
        return bits.unpack(xp, data, self.upper_bits)[..., : self._upper_count]

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode from the radii down to the coordinates, still rotated."""
        radii = arrays.single(xp, packed["radii"])
        first = self.head_dim // 2 * self.bits // 8
        angles, upper = packed["angles"][..., :first], packed["angles"][..., first:]
        codes = self._unpack_upper(xp, upper)
        stop = codes.shape[-1]
        for level in range(LEVELS, 1, -1):
            start = stop - radii.shape[-1]
            points = self._points(level)
            radii = _split(xp, radii, codes[..., start:stop], points)
            stop = start
        return _split(xp, radii, bits.unpack(xp, angles, self.bits), self._points(1))

    def _points(self, level: int) -> np.ndarray:
        """Cosine and sine of the angles of a level, float32 [n, 2]."""
        bins = 1 << self.bits
        angles = (np.arange(bins) + 0.5) * (2 * np.pi / bins)
        if level > 1:
            angles = codebooks.angle(level, self.upper_bits).values
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)

    def bits_per_value(self) -> float:
        """Angle bits of all levels, in whole bytes per vector, plus a 16-bit radius per 16 coordinates."""
        angles = self.head_dim // 2 * self.bits
        return (angles + 8 * self._upper_bytes) / self.head_dim + 16 / BLOCK

    def form(self) -> PackedForm:
        """The layout above; the codebook holds the points of level 1, 2, 3 and 4."""
        points = np.concatenate([self._points(level) for level in range(1, LEVELS + 1)])
        return PackedForm(self.bits, BLOCK, "polar", 1, codes_name="angles", scales_name="radii", book=points.ravel())


def _count(xp: Namespace, first: Array, second: Array, edges: np.ndarray) -> Array:
    """How many of the edge angles in [0, pi / 2] lie below the angle of (first, second), both not negative; uint8."""
    codes = xp.zeros(first.shape, dtype=xp.uint8)
    for edge in edges.tolist():
        codes += (second * float(np.cos(edge)) > first * float(np.sin(edge))).view(xp.uint8)
    return codes


def _split(xp: Namespace, radii: Array, codes: Array, points: np.ndarray) -> Array:
    """Radii [..., n] and angle codes to the 2 n values that they stand for."""
    pairs = xp.take(arrays.constant(xp, points), codes, axis=0) * radii[..., None]
    return pairs.reshape(*radii.shape[:-1], 2 * radii.shape[-1])
