"""MXFP8: 8-bit floats (e4m3) in groups of 32 under a power-of-two scale."""

from __future__ import annotations

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.quantizers import _mx
from swarm.kernels.quantizers.base import Choices


class Mxfp8(_mx.Microscaled):
    """x ~ 2^e v with v in e4m3 and 2^e the smallest power with max|x| <= 448 * 2^e.

    Exactly as `mx.quantize(mode="mxfp8")`.
    """

    name = "mxfp8"
    source = "OCP MX v1.0; MLX (mx.quantize)"
    summary = "8-bit floats under a shared power of two"
    formula = "8 + 8/32 = 8.25"
    choices = Choices(bits=(8,), group_sizes=(32,), scalings=("fixed", "learned"))

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """MLX's own encoder."""
        import mlx.core as mx

        values = arrays.to_mlx(arrays.single(xp, x))
        parts = mx.quantize(values, group_size=self.group, bits=8, mode="mxfp8", stream=arrays.stream(xp))
        return {"codes": arrays.held(xp, parts[0]), "scales": arrays.held(xp, parts[1])}

    def values(self, xp: Namespace, codes: Array) -> Array:
        """Look the codes up."""
        return xp.take(arrays.constant(xp, _mx.e4m3()), codes)
