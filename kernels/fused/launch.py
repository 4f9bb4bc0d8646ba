"""One launch of a kernel, and how MLX runs it on a GPU through `mx.fast.metal_kernel` or `mx.fast.cuda_kernel`.

Numbers that change from launch to launch travel as the strides of views of one element: kernels get them by value,
and no memory has to be filled and carried to the device first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, Protocol

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import sources

Array = Any  # mlx.core.array
DType = Any  # mlx.core.Dtype
GpuKind = Literal["metal", "cuda"]

# MLX puts Metal inputs of fewer elements into the constant address space; the kernels take device pointers.
MIN_INPUT_ELEMENTS = 8
MAX_NUMBERS_PER_VIEW = 10  # the most dimensions that MLX's CUDA kernels take


@dataclass(frozen=True, eq=False)
class KernelCall:
    """A launch of `entry` over `groups` threadgroups of `threads` lanes.

    `template` holds compile-time integers and types, `outputs` shapes and types. Inputs are passed as they are
    strided; the kernel text reads `<name>_shape` and `<name>_strides` where it needs them. Of `numbers` it reads
    `<name>_strides` alone.
    """

    entry: str
    template: tuple[tuple[str, Any], ...]
    inputs: tuple[tuple[str, Array], ...]
    outputs: tuple[tuple[str, tuple[int, ...], DType], ...]
    groups: tuple[int, int, int]
    threads: int
    numbers: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        for name, array in self.inputs:
            if array.size < MIN_INPUT_ELEMENTS:
                raise BackendError(
                    f"Input {name} of kernel {self.entry} has {array.size} elements.",
                    f"Pad it to {MIN_INPUT_ELEMENTS}, so that Metal keeps it in device memory.",
                )

    @property
    def arrays(self) -> tuple[tuple[str, Array], ...]:
        """All arrays that the kernel is given: the inputs, then a view per set of numbers."""
        return (*self.inputs, *((name, _carrier(values)) for name, values in self.numbers))


class Launcher(Protocol):
    """What runs a kernel call: a GPU through MLX, or an emulation."""

    def run(self, call: KernelCall) -> list[Array]:
        """The outputs of the call."""


class Gpu:
    """MLX's default GPU. Kernels are compiled when first called, by MLX, and kept."""

    def __init__(self, kind: GpuKind) -> None:
        self.kind = kind
        self._kernels: dict[str, Any] = {}

    def run(self, call: KernelCall) -> list[Array]:
        """The outputs of the call, lazy as all MLX arrays."""
        arrays = call.arrays
        outputs: list[Array] = self._kernel(call, arrays)(
            inputs=[array for _, array in arrays],
            template=list(call.template),
            grid=(call.groups[0] * call.threads, *call.groups[1:]),
            threadgroup=(call.threads, 1, 1),
            output_shapes=[shape for _, shape, _ in call.outputs],
            output_dtypes=[dtype for _, _, dtype in call.outputs],
        )
        return outputs

    def _kernel(self, call: KernelCall, arrays: tuple[tuple[str, Array], ...]) -> Any:
        import mlx.core as mx

        name = _kernel_name(call.entry, self.kind, tuple(str(array.dtype) for _, array in arrays))
        if name not in self._kernels:
            chosen = settings(call, self.kind)
            if self.kind == "metal":
                # Nothing here is infinite or NaN, so Metal may use its fast arithmetic where rounding is free.
                mode = "safe" if call.entry in sources.EXACT else "fast"
                self._kernels[name] = mx.fast.metal_kernel(**chosen, compile_options={"math_mode": mode})
            else:
                self._kernels[name] = mx.fast.cuda_kernel(**chosen)
        return self._kernels[name]


def settings(call: KernelCall, kind: GpuKind) -> dict[str, Any]:
    """What MLX is given to make a kernel of a call: its name, the names of its arrays, and its text."""
    return {
        "name": _kernel_name(call.entry, kind, tuple(str(array.dtype) for _, array in call.arrays)),
        "input_names": [name for name, _ in call.arrays],
        "output_names": [name for name, _, _ in call.outputs],
        "source": sources.statements(call.entry),
        "header": sources.header(call.entry, kind),
        "ensure_row_contiguous": False,  # strided views of a growing cache must not be copied
    }


@lru_cache(maxsize=1024)
def _kernel_name(entry: str, kind: GpuKind, types: tuple[str, ...]) -> str:
    # MLX keeps compiled kernels by name and template, on disk as well: all else that matters goes into the name.
    digest = hashlib.sha256(" ".join(types).encode()).hexdigest()[:8]
    return f"kv_{entry}_{sources.digest(entry, kind)}_{digest}"


@lru_cache(maxsize=64)
def _carrier(values: tuple[int, ...]) -> Array:
    """A view of one element whose strides are the values; layers of one step share it."""
    import mlx.core as mx

    if len(values) > MAX_NUMBERS_PER_VIEW:
        raise BackendError(f"{len(values)} numbers in one view.", f"Pass at most {MAX_NUMBERS_PER_VIEW} together.")
    view = mx.as_strided(_element(), (1,) * len(values), values, 0)
    mx.eval(view)
    return view


@cache
def _element() -> Array:
    import mlx.core as mx

    return mx.zeros((1,), dtype=mx.float32)
