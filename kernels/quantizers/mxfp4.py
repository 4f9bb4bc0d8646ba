"""MXFP4: 4-bit floats in groups of 32 under a power-of-two scale."""

from __future__ import annotations

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.quantizers import _mx
from swarm.kernels.quantizers.base import Choices


class Mxfp4(_mx.Microscaled4):
    """x ~ 2^e v with v in e2m1 and 2^e the smallest power with max|x| <= 6 * 2^e.

    Exactly as `mx.quantize(mode="mxfp4")`.
    """

    name = "mxfp4"
    source = "OCP MX v1.0; MLX (mx.quantize)"
    summary = "4-bit floats under a shared power of two"
    formula = "4 + 8/32 = 4.25"
    choices = Choices(bits=(4,), group_sizes=(32,), scalings=("fixed", "learned"))

    def encode_scales(self, xp: Namespace, peak: Array) -> tuple[Array, Array]:
        """The smallest power of two under which nothing is cut off."""
        codes = _mx.smallest_power(xp, peak, 6)
        return codes, xp.take(arrays.constant(xp, self.scale_table()), codes)
