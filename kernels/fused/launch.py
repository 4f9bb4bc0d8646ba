"""One launch of a kernel, and how MLX runs it on a GPU through `mx.fast.metal_kernel` or `mx.fast.cuda_kernel`.

Numbers that change from launch to launch travel as the strides of views of one element: kernels get them by value,
and no memory has to be filled and carried to the device first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
class Kernel:
    """What is the same in every launch of `entry` over `groups` threadgroups of `threads` lanes; made once, then kept.

    `template` holds compile-time integers and types, `inputs` names and types, `outputs` names, shapes and types.
    Inputs are passed as they are strided; the kernel text reads `<name>_shape` and `<name>_strides` where it needs
    them. Of what `numbers` makes it reads `<name>_strides` alone.
    """

    entry: str
    template: tuple[tuple[str, Any], ...]
    inputs: tuple[tuple[str, DType], ...]
    outputs: tuple[tuple[str, tuple[int, ...], DType], ...]
    groups: tuple[int, int, int]
    threads: int


class Launcher(Protocol):
    """What runs kernels: a GPU through MLX, or an emulation."""

    def run(self, kernel: Kernel, arrays: Sequence[Array]) -> list[Array]:
        """The outputs of a launch; every input has `MIN_INPUT_ELEMENTS` elements at least."""


class Gpu:
    """MLX's default GPU. Kernels are compiled when first called, by MLX, and kept.

    Launches are functions that `mx.compile` traced: a further one only puts its arrays into a graph that is there,
    where a call of the kernel itself would put its text and its name together again.
    """

    def __init__(self, kind: GpuKind) -> None:
        self.kind = kind
        self._made: dict[str, Any] = {}
        self._launches: dict[Kernel, Callable[..., list[Array]]] = {}

    def run(self, kernel: Kernel, arrays: Sequence[Array]) -> list[Array]:
        """The outputs of a launch, lazy as all MLX arrays."""
        launch = self._launches.get(kernel)
        if launch is None:
            launch = self._launches[kernel] = self._traced(kernel)
        return launch(*arrays)

    def _traced(self, kernel: Kernel) -> Callable[..., list[Array]]:
        import mlx.core as mx

        made, geometry = self._compiled(kernel), _geometry(kernel)

        def launch(*arrays: Array) -> list[Array]:
            outputs: list[Array] = made(inputs=list(arrays), **geometry)
            return outputs

        return mx.compile(launch)

    def _compiled(self, kernel: Kernel) -> Any:
        import mlx.core as mx

        chosen = settings(kernel, self.kind)
        name = chosen["name"]
        if name not in self._made:
            if self.kind == "metal":
                # Nothing here is infinite or NaN, so Metal may use its fast arithmetic where rounding is free.
                mode = "safe" if kernel.entry in sources.EXACT else "fast"
                self._made[name] = mx.fast.metal_kernel(**chosen, compile_options={"math_mode": mode})
            else:
                self._made[name] = mx.fast.cuda_kernel(**chosen)
        return self._made[name]


def _geometry(kernel: Kernel) -> dict[str, Any]:
    return {
        "template": list(kernel.template),
        "grid": (kernel.groups[0] * kernel.threads, *kernel.groups[1:]),
        "threadgroup": (kernel.threads, 1, 1),
        "output_shapes": [shape for _, shape, _ in kernel.outputs],
        "output_dtypes": [dtype for _, _, dtype in kernel.outputs],
    }


def settings(kernel: Kernel, kind: GpuKind) -> dict[str, Any]:
    """What MLX is given to compile a kernel: its name, the names of its arrays, and its text."""
    # MLX keeps compiled kernels by name and template, in this process: all else that matters goes into the name.
    types = " ".join(str(dtype) for _, dtype in kernel.inputs)
    digest = hashlib.sha256(types.encode()).hexdigest()[:8]
    return {
        "name": f"kv_{kernel.entry}_{sources.digest(kernel.entry, kind)}_{digest}",
        "input_names": [name for name, _ in kernel.inputs],
        "output_names": [name for name, _, _ in kernel.outputs],
        "source": sources.statements(kernel.entry),
        "header": (sources.includes if kind == "cuda" else sources.header)(kernel.entry, kind),
        "ensure_row_contiguous": False,  # strided views of a growing cache must not be copied
    }


@lru_cache(maxsize=64)
def numbers(*values: int) -> Array:
    """A view of one element whose strides are the values; the layers of a step share it. Nothing waits for it."""
    import mlx.core as mx

    if len(values) > MAX_NUMBERS_PER_VIEW:
        raise BackendError(f"{len(values)} numbers in one view.", f"Pass at most {MAX_NUMBERS_PER_VIEW} together.")
    return mx.as_strided(_element(), (1,) * len(values), values, 0)


@cache
def _element() -> Array:
    import mlx.core as mx

    element = mx.zeros((1,), dtype=mx.float32)
    mx.eval(element)
    return element
