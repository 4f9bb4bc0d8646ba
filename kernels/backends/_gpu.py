"""What GPU back-ends share: fused kernels where they know the format, MLX operations for all else."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from swarm.kernels.backends.base import Backend
from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.fused.wiring import FusedDecode

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Packed
    from swarm.kernels.fused.form import PackedForm
    from swarm.kernels.fused.launch import Launcher
    from swarm.kernels.fused.wiring import DeviceOf
    from swarm.kernels.quantizers.base import Quantizer


class FusedBackend(Backend):
    """A back-end whose kernels run on a launcher; `device_of` describes the device to the plan of a kernel."""

    def __init__(self, launcher: Launcher, device_of: DeviceOf) -> None:
        self._decode = FusedDecode(launcher, device_of)
        self._encode = FusedEncode(launcher)
        self._forms: WeakKeyDictionary[Quantizer, PackedForm | None] = WeakKeyDictionary()

    def device_name(self) -> str:
        """The GPU's name."""
        import mlx.core as mx

        return str(mx.device_info().get("device_name", self.name))

    def pack(self, quantizer: Quantizer, x: Array) -> Packed:
        """One launch for a format that the kernels write, the method's own operations for all else."""
        form = self._forms.get(quantizer)
        if form is None:
            form = self._forms[quantizer] = quantizer.form()
        packed = self._encode(form, x)
        return super().pack(quantizer, x) if packed is None else packed

    @property
    def fused(self) -> FusedDecode:
        """The kernels of `kernels/fused/source`."""
        return self._decode
