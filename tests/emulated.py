"""Back-ends on MLX arrays without a GPU: fused kernels in the host emulation, or MLX operations alone."""

from __future__ import annotations

from emulation.host import Host

from swarm.kernels.backends._gpu import FusedBackend
from swarm.kernels.backends.base import Backend
from swarm.kernels.fused.plan import Device


class MlxOperations(Backend):
    """An accelerator without fused kernels."""

    name = "mlx_operations"
    remedy = "It is a test's."

    @classmethod
    def available(cls):
        return True

    def device_name(self):
        return "MLX operations"


class Emulated(FusedBackend):
    """Counts what its kernels attended to, packed, and packed token by token.

    `scalar_heads` and `launch` are those of the emulated device.
    """

    name = "emulated"
    remedy = "It is a test's."

    def __init__(self, layout="metal", scalar_heads=0, launch=0.0, level=0):
        self._host = Host(layout, level=level)
        self.taken = self.packed = self.joined = 0
        super().__init__(self, lambda dim, groups, group: Device(8, scalar_heads, 4, 0, launch))

    @classmethod
    def available(cls):
        return True

    def run(self, kernel, arrays):
        """Run a kernel, and count it by what it does; merges belong to what they merge."""
        self.taken += kernel.entry.startswith("decode")
        self.packed += kernel.entry.startswith("encode")
        self.joined += kernel.entry == "append"
        return self._host.run(kernel, arrays)
