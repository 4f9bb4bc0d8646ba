"""Times torch's 16-bit attention where torch is installed and sees a GPU: a peer of the fused kernel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swarm.kernels.fused.paths import MOST_SETS, Shape
from swarm.kernels.fused.rates import Timing

if TYPE_CHECKING:
    from swarm.kernels.fused.rates import Effort

TORCH = "torch SDPA 16 bit"


def timings(shape: Shape, context: int, effort: Effort) -> list[Timing]:
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
        for _ in range(max(2, min(MOST_SETS, effort.rotate_bytes // nbytes)))
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
            found.append(_time(way, q, sets, effort.repeats))
        except torch.OutOfMemoryError:  # where torch has no kernel it writes out copies of K and V per query head
            torch.cuda.empty_cache()
    return [Timing(TORCH, *min(found), nbytes)] if found else []


def _time(way: Callable[..., Any], q: Any, sets: list[list[Any]], repeats: int) -> tuple[float, float, float]:
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
