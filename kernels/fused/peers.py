"""Times decode attention on a GPU: the fused kernel, and what one would use without it, on the same data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swarm.kernels.cache import PackedKVCache
from swarm.kernels.errors import BackendError
from swarm.kernels.fused.half_precision import MAX_SETS, AttentionShape, HalfSets
from swarm.kernels.fused.timing import BENCHMARK, Effort, Timing, time_chain
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.kernels.attention import StoredView
    from swarm.kernels.backends.base import Backend
    from swarm.kernels.side import SideView
    from swarm.kernels.spec import QuantSpec

Array = Any
Attend = Callable[[Array, int], Array]  # of a query and the number of a set of keys and values

FUSED = "fused"
SDPA = "MLX SDPA 16 bit"
DEQUANTIZE = "MLX dequantize + SDPA"
QUANTIZED = "mlx-lm quantized SDPA"
TORCH = "torch SDPA 16 bit"


FILLED_AT_ONCE = 8192
"""Tokens that are packed together, few enough that no kernel is compiled for what is not timed."""


class Sets:
    """Several sets of random keys and values of one layer, in 16 bit and as a cache holds them."""

    def __init__(
        self, backend: Backend, shape: AttentionShape, key: QuantSpec, value: QuantSpec, context: int, rotate_bytes: int
    ) -> None:
        self.backend = backend
        self.shape = shape
        self.half = HalfSets(shape, context, rotate_bytes)
        self.scale = self.half.scale
        self.kv = KVSpec(key=fixed(key), value=fixed(value))
        self.q = self.half.query()
        self.packed_bytes = packed_bytes(shape, key, value, context)
        sets = max(2, min(MAX_SETS, -(-rotate_bytes // self.packed_bytes)))
        self.caches = [PackedKVCache(self.kv, window=shape.window, backend=backend) for _ in range(sets)]
        self.views = [self._view(cache) for cache in self.caches]

    def _view(self, cache: PackedKVCache) -> StoredView:
        """What the last token of a cache sees that is filled here."""
        import mlx.core as mx

        keys, values = self.half.vectors(), self.half.vectors()
        last = keys.shape[2] - 1
        for start in range(0, last, FILLED_AT_ONCE):
            some = slice(start, min(last, start + FILLED_AT_ONCE))
            cache.append(keys[:, :, some], values[:, :, some])
        view = cache.append(keys[:, :, -1:], values[:, :, -1:])
        mx.eval(cache.state)
        return view

    def paths(self) -> list[tuple[str, Attend, int]]:
        """Name, function of (query, set), and bytes of keys and values that the path must read; the fused one first.

        Raises:
            BackendError: no fused kernel reads the formats.
        """
        fused = self.backend.fused
        if fused is None or fused.attend(self.views[0], self.q, self.scale, None) is None:
            raise BackendError(
                f"No fused kernel attends over K {self.kv.key.label}, V {self.kv.value.label}.",
                "Time formats that one reads.",
            )

        def by_kernel(q: Array, i: int) -> Array:
            return fused.attend(self.views[i % len(self.views)], q, self.scale, None)

        found: list[tuple[str, Attend, int]] = [
            (FUSED, by_kernel, self.packed_bytes),
            (SDPA, self.half.attend, self.half.nbytes),
        ]
        methods = {self.kv.key.method, self.kv.value.method}
        if methods != {"none"}:
            found.append((DEQUANTIZE, self._by_dequantizing, self.packed_bytes))
        if methods == {"affine"} and self.kv.key == self.kv.value:
            found.append((QUANTIZED, self._by_mlx_lm, self.packed_bytes))
        return found

    def _by_dequantizing(self, q: Array, i: int) -> Array:
        import mlx.core as mx

        view = self.views[i % len(self.views)]
        k, v = (_dequantized(side, view.lowest(), view.offset) for side in (view.key, view.value))
        out = mx.fast.scaled_dot_product_attention(self._framed(view, q), k, v, scale=self.scale)
        return self._unframed(view, out)

    def _by_mlx_lm(self, q: Array, i: int) -> Array:
        from mlx_lm.models.base import quantized_scaled_dot_product_attention

        view = self.views[i % len(self.views)]
        k, v = (_affine(side, view.lowest(), view.offset) for side in (view.key, view.value))
        spec = self.kv.key
        q = self._framed(view, q)
        out = quantized_scaled_dot_product_attention(
            q, k, v, scale=self.scale, mask=None, group_size=spec.group_size, bits=spec.bits
        )
        return self._unframed(view, out)

    def _framed(self, view: StoredView, q: Array) -> Array:
        grouped = q.reshape(1, self.shape.kv_heads, -1, self.shape.head_dim)
        return view.key.codec.query(grouped).reshape(q.shape).astype(q.dtype)

    def _unframed(self, view: StoredView, out: Array) -> Array:
        grouped = out.reshape(1, self.shape.kv_heads, -1, self.shape.head_dim)
        return view.value.codec.output(grouped).reshape(out.shape).astype(out.dtype)


def packed_bytes(shape: AttentionShape, key: QuantSpec, value: QuantSpec, context: int) -> int:
    """Bytes of packed keys and values that one query reads."""
    bits = sum(base.build(fixed(spec), shape.head_dim).bits_per_value() for spec in (key, value))
    return int(shape.kv_heads * shape.seen(context) * shape.head_dim * bits / 8)


def fixed(spec: QuantSpec) -> QuantSpec:
    """Without learned factors, which need a model and cost the kernel nothing."""
    return spec.model_copy(update={"scaling": "fixed"})


def _affine(side: SideView, low: int, high: int) -> tuple[Array, Array, Array]:
    """Codes, scales and biases of a run of columns."""
    first = side.side.packed_first
    parts = side.side.store.read(low - first, high - first)
    return parts["codes"], parts["scales"], parts["biases"]


def _dequantized(side: SideView, low: int, high: int) -> Array:
    """Columns in 16 bit, by MLX's own kernel where it has one."""
    import mlx.core as mx

    spec = side.codec.spec
    if spec.method != "affine":
        return side.packed(mx, low, high).astype(mx.float16)
    return mx.dequantize(*_affine(side, low, high), group_size=spec.group_size, bits=spec.bits)


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
    backend: Backend, shape: AttentionShape, key: QuantSpec, value: QuantSpec, context: int, effort: Effort = BENCHMARK
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
    return timings + _torch_timings(shape, context, effort), refused


def kernel(
    backend: Backend, shape: AttentionShape, key: QuantSpec, value: QuantSpec, context: int, effort: Effort
) -> Timing:
    """The timing of the fused kernel alone.

    Raises:
        BackendError: no fused kernel reads the formats.
    """
    data = Sets(backend, shape, key, value, context, effort.rotate_bytes)
    path, run, nbytes = data.paths()[0]
    return _timing(path, run, data.q, nbytes, effort)


def half_precision(shape: AttentionShape, context: int, effort: Effort) -> Timing:
    """The timing of MLX's own attention over 16-bit keys and values."""
    data = HalfSets(shape, context, effort.rotate_bytes)
    return _timing(SDPA, data.attend, data.query(), data.nbytes, effort)


def _timing(path: str, run: Attend, q: Array, nbytes: int, effort: Effort) -> Timing:
    def chain(steps: int) -> Array:
        out = q
        for i in range(steps):
            out = run(out, i)
        return out

    return Timing(path, *time_chain(chain, effort), nbytes)


def _torch_timings(shape: AttentionShape, context: int, effort: Effort) -> list[Timing]:
    """16-bit attention of torch, where it sees a GPU: the faster of its two ways to share KV heads."""
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    seen, group = shape.seen(context), shape.q_heads // shape.kv_heads
    size = (1, shape.kv_heads, seen, shape.head_dim)
    nbytes = 2 * 2 * shape.kv_heads * seen * shape.head_dim
    sets = [
        [torch.randn(size, dtype=torch.float16, device="cuda") for _ in "kv"]
        for _ in range(max(2, min(MAX_SETS, effort.rotate_bytes // nbytes)))
    ]
    attend = torch.nn.functional.scaled_dot_product_attention
    q = torch.randn((1, shape.q_heads, 1, shape.head_dim), dtype=torch.float16, device="cuda")

    def grouped(out: Any, k: Any, v: Any) -> Any:
        rows = out.reshape(1, shape.kv_heads, group, shape.head_dim)
        return attend(rows, k, v).reshape(q.shape)

    def shared(out: Any, k: Any, v: Any) -> Any:
        return attend(out, k, v, enable_gqa=True)

    found = []
    for way in (grouped, shared):
        try:
            found.append(_time_torch(way, q, sets, effort.repeats))
        except torch.OutOfMemoryError:  # where torch has no kernel it writes out copies of K and V per query head
            torch.cuda.empty_cache()
    return [Timing(TORCH, *min(found), nbytes)] if found else []


def _time_torch(way: Callable[..., Any], q: Any, sets: list[list[Any]], repeats: int) -> tuple[float, float, float]:
    import torch

    steps = 20

    def chain() -> Any:
        out = q
        for i in range(steps):
            out = way(out, *sets[i % len(sets)])
        return out

    chain()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        chain()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chain()
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / steps * 1e6)
    times = times[1:]
    return statistics.median(times), min(times), max(times)
