"""Times decode attention on a GPU: the fused kernel and what one would use without it, on the same data.

Knows shapes and paths; prints nothing. Launches depend on each other (an output is the next query), many of them make
one evaluation, and buffers rotate so that no cache holds them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import BackendError
from swarm.kernels.fused.decode import DecodeAttention, DenseSide, PackedSide, Run
from swarm.kernels.quantizers import base

if TYPE_CHECKING:
    from swarm.kernels.fused.wiring import FusedDecode
    from swarm.kernels.spec import QuantSpec

Array = Any
Path = Callable[[Array, int], Array]

ROTATE_BYTES = 400 * 2**20  # of packed data, several times any last-level cache
MOST_SETS = 16
WINDOW_SLACK = 256  # tokens that a windowed cache holds beyond its window
REPEATS = 9


@dataclass(frozen=True)
class Shape:
    """One layer's attention: heads, head size, and the sliding window if it has one."""

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None

    def seen(self, context: int) -> int:
        """Tokens that a query attends to."""
        return context if self.window is None else min(context, self.window)


@dataclass(frozen=True)
class Timing:
    """Microseconds per decode step of one layer: median, fastest and slowest of the repeats; bytes read once."""

    path: str
    median: float
    low: float
    high: float
    nbytes: int

    @property
    def bandwidth(self) -> float:
        """GB/s, counting every byte of keys and values once."""
        return self.nbytes / self.median / 1e3

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "bandwidth": self.bandwidth}


def fused_of_this_machine() -> tuple[str, FusedDecode]:
    """The back-end's name and fused kernels.

    Raises:
        BackendError: no GPU that MLX can use here.
    """
    from swarm.kernels.backends import base as backends
    from swarm.kernels.fused import devices
    from swarm.kernels.fused.gpu import Gpu
    from swarm.kernels.fused.wiring import FusedDecode

    here = backends.current()
    if here.name not in ("cuda", "metal"):
        raise BackendError(
            "Kernels are timed on a GPU, and MLX computes on the CPU here.",
            "On NVIDIA: `uv sync --no-group cpu --group cuda`; on a Mac with Apple silicon: `pip install mlx`.",
        )
    if here.name == "metal":
        return here.name, FusedDecode(Gpu("metal"), devices.metal)
    return here.name, FusedDecode(Gpu("cuda"), devices.cuda)


def copy_bandwidth() -> float:
    """GB/s of a copy of 1 GiB, bytes read plus bytes written."""
    import mlx.core as mx

    x = mx.random.normal((2**28,))
    mx.eval(x)

    def chain() -> Array:
        y = x
        for _ in range(8):
            y = -y
        return y

    seconds = _measure(chain, 8)[0] * 1e-6
    return float(2 * x.nbytes / seconds / 1e9)


def compare(
    fused: FusedDecode, shape: Shape, key: QuantSpec, value: QuantSpec, context: int
) -> tuple[list[Timing], dict[str, str]]:
    """Timings of every path that runs here, the fused kernel first, and what MLX says of those that do not."""
    import mlx.core as mx

    mx.clear_cache()
    data = _Data(shape, key, value, context)
    (path, run, nbytes), *others = data.paths(fused)
    timings, refused = [_timing(path, run, data.q, nbytes)], {}
    for path, run, nbytes in others:
        try:
            timings.append(_timing(path, run, data.q, nbytes))
        except RuntimeError as error:  # MLX has no kernel for some shapes
            refused[path] = str(error)
    del data, run, others
    mx.clear_cache()  # torch has an allocator of its own
    return timings + _torch(shape, context), refused


class _Data:
    """Rotating sets of keys and values in all forms."""

    def __init__(self, shape: Shape, key: QuantSpec, value: QuantSpec, context: int) -> None:
        import mlx.core as mx

        self.shape = shape
        self.seen = shape.seen(context)
        self.context = min(context, self.seen + WINDOW_SLACK)  # a windowed cache drops what nothing sees
        self.scale = shape.head_dim**-0.5
        self.specs = (key, value)
        self.q = mx.random.normal((1, shape.q_heads, 1, shape.head_dim)).astype(mx.float16)
        self.quantizers = [base.build(spec, shape.head_dim) for spec in self.specs]
        values = shape.kv_heads * self.seen * shape.head_dim
        self.packed_bytes = int(sum(values * quantizer.bits_per_value() / 8 for quantizer in self.quantizers))
        self.half_bytes = 2 * 2 * values
        sets = max(2, min(MOST_SETS, -(-ROTATE_BYTES // self.packed_bytes)))
        self.half = [[self._vectors() for _ in "kv"] for _ in range(min(sets, max(2, ROTATE_BYTES // self.half_bytes)))]
        self.packed = [[quantizer.encode(self._vectors()) for quantizer in self.quantizers] for _ in range(sets)]
        mx.eval(self.half, self.packed)

    def _vectors(self) -> Array:
        import mlx.core as mx

        return mx.random.normal((1, self.shape.kv_heads, self.context, self.shape.head_dim)).astype(mx.float16)

    def paths(self, fused: FusedDecode) -> list[tuple[str, Path, int]]:
        """Name, function of (query, set), and bytes of keys and values that the path must read."""
        import mlx.core as mx

        sdpa = mx.fast.scaled_dot_product_attention
        low = self.context - self.seen

        def by_sdpa(q: Array, i: int) -> Array:
            k, v = self.half[i % len(self.half)]
            return sdpa(q, k[:, :, low:], v[:, :, low:], scale=self.scale)

        found = [("fused", self._fused(fused), self.packed_bytes), ("MLX SDPA 16 bit", by_sdpa, self.half_bytes)]
        if all(spec.method == "affine" for spec in self.specs):
            found.append(("MLX dequantize + SDPA", self._dequantized(low), self.packed_bytes))
        if self.specs[0] == self.specs[1] and self.specs[0].method == "affine":
            found.append(("mlx-lm quantized SDPA", self._mlx_lm(low), self.packed_bytes))
        return [entry for entry in found if entry[1] is not None]

    def _fused(self, fused: FusedDecode) -> Path:
        shape = self.shape
        groups = shape.head_dim // min(scale_group(quantizer, shape.head_dim) for quantizer in self.quantizers)
        device = fused.device_of(shape.head_dim, groups, shape.q_heads // shape.kv_heads)
        attention = DecodeAttention(fused.launcher, device)
        sides = [
            [
                side(quantizer, parts, self.context - self.seen)
                for quantizer, parts in zip(self.quantizers, pair, strict=True)
            ]
            for pair in self.packed
        ]

        def run(q: Array, i: int) -> Array:
            key, value = sides[i % len(sides)]
            return attention(q, self.scale, Run(key, value, self.seen))[0]

        return run

    def _parts(self, i: int, low: int) -> list[list[Array]]:
        return [
            [parts[name][:, :, low:] for name in ("codes", "scales", "biases")]
            for parts in self.packed[i % len(self.packed)]
        ]

    def _dequantized(self, low: int) -> Path:
        import mlx.core as mx

        def run(q: Array, i: int) -> Array:
            k, v = (
                mx.dequantize(codes, scales, biases, group_size=spec.group_size, bits=spec.bits)
                for (codes, scales, biases), spec in zip(self._parts(i, low), self.specs, strict=True)
            )
            return mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale)

        return run

    def _mlx_lm(self, low: int) -> Path:
        from mlx_lm.models.base import quantized_scaled_dot_product_attention

        spec = self.specs[0]

        def run(q: Array, i: int) -> Array:
            key, value = (tuple(parts) for parts in self._parts(i, low))
            out: Array = quantized_scaled_dot_product_attention(
                q, key, value, scale=self.scale, mask=None, group_size=spec.group_size, bits=spec.bits
            )
            return out

        return run


def scale_group(quantizer: base.Quantizer, dim: int) -> int:
    """Channels that share a scale."""
    form = quantizer.form()
    return dim if form is None else form.group


def side(quantizer: base.Quantizer, parts: dict[str, Array], first: int) -> PackedSide | DenseSide:
    """What a kernel is given for packed arrays of a format."""
    form = quantizer.form()
    if form is None:
        raise BackendError(f"No fused kernel reads {quantizer.spec.label}.", "Time a format that one reads.")
    return PackedSide(form, parts, first) if form.meta else DenseSide(parts[form.codes_name], first)


def _timing(path: str, run: Path, q: Array, nbytes: int) -> Timing:
    import mlx.core as mx

    def chain(steps: int) -> Array:
        out = q
        for i in range(steps):
            out = run(out, i)
        return out

    mx.eval(chain(3))
    once = _measure(lambda: chain(8), 8)[0]
    steps = int(min(100, max(8, 20_000 / once)))  # about 20 ms per evaluation
    return Timing(path, *_measure(lambda: chain(steps), steps), nbytes)


def _measure(chain: Callable[[], Array], steps: int) -> tuple[float, float, float]:
    """Median, fastest and slowest microseconds per step; the graph is built before the clock starts."""
    import mlx.core as mx

    mx.eval(chain())
    times = []
    for _ in range(REPEATS):
        out = chain()
        mx.synchronize()
        start = time.perf_counter()
        mx.eval(out)
        mx.synchronize()
        times.append((time.perf_counter() - start) / steps * 1e6)
    return statistics.median(times), min(times), max(times)


def _torch(shape: Shape, context: int) -> list[Timing]:
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
        for _ in range(max(2, min(MOST_SETS, ROTATE_BYTES // nbytes)))
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
            found.append(_torch_time(way, q, sets))
        except torch.OutOfMemoryError:  # where torch has no kernel it writes out copies of K and V per query head
            torch.cuda.empty_cache()
    return [Timing("torch SDPA 16 bit", *min(found), nbytes)] if found else []


def _torch_time(way: Callable[..., Any], q: Any, sets: list[list[Any]]) -> tuple[float, float, float]:
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
    for _ in range(REPEATS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / steps * 1e6)
    times = times[1:]
    return statistics.median(times), min(times), max(times)
