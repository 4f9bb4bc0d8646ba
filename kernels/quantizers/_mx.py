"""What the block floating-point formats of MLX share: small floats under one 8-bit scale per group.

Source: OCP Microscaling Formats (MX) v1.0, and `mx.quantize` of the float32 values, with which packed arrays agree
bit for bit. The 4-bit encoders are written out because MLX's own take eight times as long on the CPU.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from swarm.kernels import arrays, bits
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.fused.form import Encoder, PackedForm, Scales
from swarm.kernels.quantizers import _groups
from swarm.kernels.quantizers.base import Quantizer

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def e4m3() -> np.ndarray:
    """The 256 values of the 8-bit float with 4 exponent and 3 mantissa bits (OCP, no infinities), NaN included."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    magnitude[(code & 127) == 127] = np.nan
    return (np.where(code >> 7, -1, 1) * magnitude).astype(np.float32)


def e8m0() -> np.ndarray:
    """The 256 powers of two of an 8-bit exponent; the last code is NaN."""
    return np.array([*(2.0 ** np.arange(-127, 128)), np.nan], np.float32)


def encode_e2m1(xp: Namespace, x: Array) -> Array:
    """Float32 to the nearest 4-bit code uint8 (sign, 2 exponent bits, 1 mantissa bit), ties towards zero."""
    magnitude = xp.abs(x)
    codes = xp.zeros(x.shape, dtype=xp.uint8)
    for midpoint in _MIDPOINTS:
        codes += (magnitude > midpoint).view(xp.uint8)
    negative = (x < -_MIDPOINTS[0]).view(xp.uint8)
    return codes | (negative << 3)


def smallest_power(xp: Namespace, peak: Array, largest: float) -> Array:
    """Code uint8 of the smallest 2^e with peak <= largest * 2^e, read off the float's fields; 2^0 for peak 0."""
    exponent, mantissa = divmod(int(np.float32(largest).view(np.uint32)), 1 << 23)
    fields = peak.view(xp.uint32)
    above = (fields & 0x7FFFFF) > mantissa
    code = (fields >> 23).astype(xp.int32) - (exponent - 127) + above.astype(xp.int32)
    return xp.where(peak == 0, xp.full(peak.shape, 127, dtype=xp.int32), xp.clip(code, 0, 254)).astype(xp.uint8)


class Microscaled(Quantizer):
    """A block floating-point format.

    Layout per token and head: `codes` uint32 [B, H, T, D * bits / 32], low bits first; `scales` uint8
    [B, H, T, D / group_size].
    """

    scale_codes: ClassVar[Scales] = "e8m0"
    encoder: ClassVar[Encoder] = "power"

    def scale_table(self) -> np.ndarray:
        """The values of the 256 scale codes, float32: powers of two, unless a format says otherwise."""
        return e8m0()

    @abstractmethod
    def values(self, xp: Namespace, codes: Array) -> Array:
        """Packed bytes of codes to float32 values before scaling."""

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode: scale times value."""
        plain = self.values(xp, packed["codes"].view(xp.uint8))
        scales = xp.take(arrays.constant(xp, self.scale_table()), packed["scales"])
        groups = plain.reshape(*plain.shape[:-1], -1, self.group)
        return (groups * scales[..., None]).reshape(plain.shape)

    def bits_per_value(self) -> float:
        """Code bits plus an 8-bit scale per group."""
        return self.bits + 8 / self.group

    def form(self) -> PackedForm:
        """The layout above."""
        return PackedForm(
            self.bits,
            self.group,
            "minifloat",
            1,
            scales=self.scale_codes,
            scales_name="scales",
            encoder=self.encoder,
        )


class Microscaled4(Microscaled):
    """A format of 4-bit floats (e2m1)."""

    @abstractmethod
    def encode_scales(self, xp: Namespace, peak: Array) -> tuple[Array, Array]:
        """Largest magnitudes [.., groups] to scale codes uint8 and their values float32."""

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Scales from each group's largest magnitude, then rounded codes."""
        groups = arrays.single(xp, x).reshape(*x.shape[:-1], -1, self.group)
        scales, values = self.encode_scales(xp, _groups.peaks(xp, groups))
        scaled = groups / xp.where(values == 0, xp.ones_like(values), values)[..., None]
        codes = encode_e2m1(xp, scaled).reshape(x.shape)
        return {"codes": bits.pack(xp, codes, 4).view(xp.uint32), "scales": scales}

    def values(self, xp: Namespace, codes: Array) -> Array:
        """Look the codes up."""
        return bits.lookup(xp, codes, 4, E2M1)
