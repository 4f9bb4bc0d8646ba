"""Runs kernel calls on a GPU through `mx.fast.metal_kernel` or `mx.fast.cuda_kernel`. Knows MLX; no formats."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from swarm.kernels.fused import sources

if TYPE_CHECKING:
    from swarm.kernels.fused.call import Array, KernelCall


class Gpu:
    """MLX's default GPU. Kernels are compiled when first called, by MLX, and kept."""

    def __init__(self, kind: Literal["metal", "cuda"]) -> None:
        self.kind = kind
        self._kernels: dict[str, Any] = {}

    def run(self, call: KernelCall) -> list[Array]:
        """The outputs of the call, lazy as all MLX arrays."""
        outputs: list[Array] = self._kernel(call)(
            inputs=[array for _, array in call.arrays],
            template=list(call.template),
            grid=(call.groups[0] * call.threads, *call.groups[1:]),
            threadgroup=(call.threads, 1, 1),
            output_shapes=[shape for _, shape, _ in call.outputs],
            output_dtypes=[dtype for _, _, dtype in call.outputs],
        )
        return outputs

    def _kernel(self, call: KernelCall) -> Any:
        import mlx.core as mx

        chosen = settings(call, self.kind)
        name = chosen["name"]
        if name not in self._kernels:
            if self.kind == "metal":
                # Nothing here is infinite or NaN, so Metal may use its fast arithmetic where rounding is free.
                mode = "safe" if call.entry in sources.EXACT else "fast"
                self._kernels[name] = mx.fast.metal_kernel(**chosen, compile_options={"math_mode": mode})
            else:
                self._kernels[name] = mx.fast.cuda_kernel(**chosen)
        return self._kernels[name]


def settings(call: KernelCall, kind: Literal["metal", "cuda"]) -> dict[str, Any]:
    """What MLX is given to make a kernel of a call: its name, the names of its arrays, and its text."""
    # MLX keeps compiled kernels by name and template, on disk as well: all else that matters goes into the name.
    types = " ".join(str(array.dtype) for _, array in call.arrays)
    name = f"kv_{call.entry}_{sources.digest(call.entry, kind)}_{hashlib.sha256(types.encode()).hexdigest()[:8]}"
    return {
        "name": name,
        "input_names": [input_name for input_name, _ in call.arrays],
        "output_names": [output_name for output_name, _, _ in call.outputs],
        "source": sources.statements(call.entry),
        "header": sources.header(call.entry, kind),
        "ensure_row_contiguous": False,  # strided views of a growing cache must not be copied
    }
