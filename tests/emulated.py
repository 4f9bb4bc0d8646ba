"""Back-ends on MLX arrays without a GPU: fused kernels in the host emulation, or MLX operations alone."""

from __future__ import annotations

from swarm.kernels.backends.base import Backend
from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.fused.host import Host
from swarm.kernels.fused.plan import Device
from swarm.kernels.fused.wiring import FusedDecode


class MlxOperations(Backend):
    """An accelerator without fused kernels."""

    name = "mlx_operations"
    remedy = "It is a test's."

    @classmethod
    def available(cls):
        return True

    def device_name(self):
        return "MLX operations"


class Emulated(MlxOperations):
    """Counts the calls that its kernels took; `scalar_heads` and `launch` are those of the emulated device."""

    name = "emulated"

    def __init__(self, layout="metal", scalar_heads=0, launch=0.0, level=0):
        host = Host(layout, level=level)
        self._fused = Counting(host, lambda dim, groups, group: Device(8, scalar_heads, 4, 0, launch))
        self._encode = FusedEncode(host)
        self.packed = 0

    @property
    def fused(self):
        return self._fused

    @property
    def taken(self):
        return self._fused.taken

    def pack(self, quantizer, x):
        packed = self._encode(quantizer.form(), x)
        self.packed += packed is not None
        return super().pack(quantizer, x) if packed is None else packed


class Counting(FusedDecode):
    taken = 0

    def attend(self, view, queries, scale, mask):
        out = super().attend(view, queries, scale, mask)
        self.taken += out is not None
        return out
