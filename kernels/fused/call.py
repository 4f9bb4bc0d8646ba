"""One launch of a kernel, the same for every back-end. Knows names, shapes and types; nothing of compilers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swarm.kernels.errors import BackendError

Array = Any  # mlx.core.array
DType = Any  # mlx.core.Dtype

# MLX puts Metal inputs of fewer elements into the constant address space; the kernels take device pointers.
LEAST_ELEMENTS = 8


@dataclass(frozen=True, eq=False)
class KernelCall:
    """A launch of `entry` over `groups` threadgroups of `threads` lanes.

    `template` holds compile-time integers and types, `outputs` shapes and types. Inputs are passed as they are
    strided; the kernel text reads `<name>_shape` and `<name>_strides` where it needs them.
    """

    entry: str
    template: tuple[tuple[str, Any], ...]
    inputs: tuple[tuple[str, Array], ...]
    outputs: tuple[tuple[str, tuple[int, ...], DType], ...]
    groups: tuple[int, int, int]
    threads: int

    def __post_init__(self) -> None:
        for name, array in self.inputs:
            if array.size < LEAST_ELEMENTS:
                raise BackendError(
                    f"Input {name} of kernel {self.entry} has {array.size} elements.",
                    f"Pad it to {LEAST_ELEMENTS}, so that Metal keeps it in device memory.",
                )
