"""NVFP4: 4-bit floats in groups of 16 under an 8-bit float scale."""

from __future__ import annotations

import numpy as np

from swarm.kernels import arrays
from swarm.kernels.arrays import Array, Namespace
from swarm.kernels.quantizers import _mx
from swarm.kernels.quantizers.base import Choices


class Nvfp4(_mx.Microscaled4):
    """x ~ s v with v in e2m1 and s = e4m3(max|x| / 6), exactly as `mx.quantize(mode="nvfp4")`."""

    name = "nvfp4"
    source = "NVIDIA NVFP4; MLX (mx.quantize)"
    summary = "4-bit floats under an 8-bit float scale"
    formula = "4 + 8/16 = 4.5"
    choices = Choices(bits=(4,), group_sizes=(16,), scalings=("fixed", "learned"))
    scale_codes = "e4m3"
    encoder = "ratio"
    largest = 448.0 * 6  # e4m3 scales end at 448, e2m1 values at 6

    def scale_table(self) -> np.ndarray:
        """All 8-bit floats."""
        return _mx.e4m3()

    def encode_scales(self, xp: Namespace, peak: Array) -> tuple[Array, Array]:
        """The 8-bit float nearest to max|x| / 6."""
        import mlx.core as mx

        codes = arrays.held(xp, mx.to_fp8(arrays.to_mlx(peak / 6)))
        return codes, xp.take(arrays.constant(xp, self.scale_table()), codes)
