"""Times decode attention on a GPU: the fused kernel and what one would use without it, on the same data.

Knows which paths there are; prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import torch_sdpa
from swarm.kernels.fused.paths import Path, Sets, Shape
from swarm.kernels.fused.rates import BENCHMARK, Effort, Timing, time_chain

if TYPE_CHECKING:
    from swarm.kernels.backends.base import Backend
    from swarm.kernels.spec import QuantSpec

Array = Any


def backend_of_this_machine() -> Backend:
    """The back-end of this machine's GPU.

    Raises:
        BackendError: no GPU that MLX can use here.
    """
    from swarm.kernels.backends import base as backends

    here = backends.current()
    if here.fused is None:
        raise BackendError(
            "Kernels are timed on a GPU, and MLX computes on the CPU here.",
            "On NVIDIA: `uv sync --no-group cpu --group cuda`; on a Mac with Apple silicon: `pip install mlx`.",
        )
    return here


def compare(
    backend: Backend, shape: Shape, key: QuantSpec, value: QuantSpec, context: int, effort: Effort = BENCHMARK
) -> tuple[list[Timing], dict[str, str]]:
    """Timings of every path that runs here, the fused kernel first, and what MLX says of those that do not.

    Raises:
        BackendError: no fused kernel reads the formats.
    """
    import mlx.core as mx

    mx.clear_cache()
    data = Sets(backend, shape, key, value, context, effort.rotate_bytes)
    (path, run, nbytes), *others = data.paths()
    timings, refused = [_timing(path, run, data.q, nbytes, effort)], {}
    for path, run, nbytes in others:
        try:
            timings.append(_timing(path, run, data.q, nbytes, effort))
        except RuntimeError as error:  # MLX has no kernel for some shapes
            refused[path] = str(error)
    del data, run, others
    mx.clear_cache()  # torch has an allocator of its own
    return timings + torch_sdpa.timings(shape, context, effort), refused


def _timing(path: str, run: Path, q: Array, nbytes: int, effort: Effort) -> Timing:
    def chain(steps: int) -> Array:
        out = q
        for i in range(steps):
            out = run(out, i)
        return out

    return Timing(path, *time_chain(chain, effort), nbytes)
