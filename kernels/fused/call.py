"""One launch of a kernel, the same for every back-end. Knows names, shapes and types; nothing of compilers.

Numbers that change from launch to launch travel as the strides of views of one element: kernels get them by value,
and no memory has to be filled and carried to the device first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from swarm.kernels.errors import BackendError

Array = Any  # mlx.core.array
DType = Any  # mlx.core.Dtype

# MLX puts Metal inputs of fewer elements into the constant address space; the kernels take device pointers.
LEAST_ELEMENTS = 8
MOST_NUMBERS = 10  # of one view: the most dimensions that MLX's CUDA kernels take


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
            if array.size < LEAST_ELEMENTS:
                raise BackendError(
                    f"Input {name} of kernel {self.entry} has {array.size} elements.",
                    f"Pad it to {LEAST_ELEMENTS}, so that Metal keeps it in device memory.",
                )

    @property
    def arrays(self) -> tuple[tuple[str, Array], ...]:
        """All arrays that the kernel is given: the inputs, then a view per set of numbers."""
        return (*self.inputs, *((name, _carrier(values)) for name, values in self.numbers))


@lru_cache(maxsize=64)
def _carrier(values: tuple[int, ...]) -> Array:
    """A view of one element whose strides are the values; layers of one step share it."""
    import mlx.core as mx

    if len(values) > MOST_NUMBERS:
        raise BackendError(f"{len(values)} numbers in one view.", f"Pass at most {MOST_NUMBERS} together.")
    view = mx.as_strided(_element(), (1,) * len(values), values, 0)
    mx.eval(view)
    return view


@cache
def _element() -> Array:
    import mlx.core as mx

    return mx.zeros((1,), dtype=mx.float32)
