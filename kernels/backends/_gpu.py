"""What GPU back-ends share: fused kernels where they know the format, MLX operations for all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from swarm.kernels.backends.base import Backend
from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.fused.recent import FusedAppend, Recent, RecentSide
from swarm.kernels.fused.wiring import FusedDecode

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Packed
    from swarm.kernels.fused.form import PackedForm
    from swarm.kernels.fused.launch import Launcher
    from swarm.kernels.fused.wiring import DeviceOf
    from swarm.kernels.quantizers.base import Quantizer
    from swarm.kernels.side import CacheSide, SideView


class FusedBackend(Backend):
    """A back-end whose kernels run on a launcher; `device_of` describes the device to the plan of a kernel.

    Attributes:
        least_packed: values of a call below which MLX's operations pack them, for the same bytes: where compiling a
            kernel takes long, neither a short prompt nor the first token behind one waits for it.
    """

    least_packed: ClassVar[int] = 0

    def __init__(self, launcher: Launcher, device_of: DeviceOf) -> None:
        self._decode = FusedDecode(launcher, device_of)
        self._encode = FusedEncode(launcher)
        self._append = FusedAppend(launcher)
        self._forms: WeakKeyDictionary[Quantizer, PackedForm | None] = WeakKeyDictionary()

    def device_name(self) -> str:
        """The GPU's name."""
        import mlx.core as mx

        return str(mx.device_info().get("device_name", self.name))

    def pack(self, quantizer: Quantizer, x: Array) -> Packed:
        """One launch for a format that the kernels write, the method's own operations for all else."""
        if x.size < self.least_packed:
            return super().pack(quantizer, x)
        form = self._forms.get(quantizer)
        if form is None:
            form = self._forms[quantizer] = quantizer.form()
        packed = self._encode(form, x)
        return super().pack(quantizer, x) if packed is None else packed

    def append(self, sides: tuple[CacheSide, CacheSide], fresh: tuple[Array, Array]) -> tuple[SideView, SideView]:
        """One launch for one token in formats that the kernels write: it joins the recent tokens of the layer."""
        key, value = sides
        recent = self._extended(sides, fresh) if fresh[0].shape[2] == 1 else None
        if recent is None:
            return super().append(sides, fresh)
        xp = self.xp
        return key.append_packed(xp, recent.side(0), fresh[0]), value.append_packed(xp, recent.side(1), fresh[1])

    def _extended(self, sides: tuple[CacheSide, CacheSide], fresh: tuple[Array, Array]) -> Recent | None:
        """The recent tokens with one more: behind those that both sides have, or the first where they are full."""
        xp = self.xp
        key, value = sides
        last = key.store.recent, value.store.recent
        recent = None
        if isinstance(last[0], RecentSide) and isinstance(last[1], RecentSide) and last[0].of is last[1].of:
            recent = last[0].of
        elif not (key.is_even and value.is_even):
            return None
        vectors = key.codec.moved(xp, key.leaving(fresh[0])), value.codec.moved(xp, value.leaving(fresh[1]))
        longer = None if recent is None else self._append.behind(recent, *vectors)
        if longer is not None:
            return longer
        before = key.store.arrays()[0], value.store.arrays()[0]
        for side in sides:
            side.store.settle()
        stored = key.store.arrays()[0], value.store.arrays()[0]
        if recent is not None and stored[0] is before[0] and stored[1] is before[1]:
            longer = self._append.behind(recent.moved(), *vectors)
        return longer or self._append.first((key.codec.form, value.codec.form), *vectors, stored)

    @property
    def fused(self) -> FusedDecode:
        """The kernels of `kernels/fused/source`."""
        return self._decode
