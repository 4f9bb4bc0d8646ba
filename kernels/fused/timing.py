"""Times a chain of dependent kernel launches, many in one evaluation, and measures what this GPU can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Array = Any


@dataclass(frozen=True)
class Effort:
    """How much is spent on one timing: `repeats` evaluations of about `microseconds`, `min_steps` at least.

    Buffers rotate until they hold `rotate_bytes`, so that no cache holds them all. The GPU idles while the first
    launches are put together, so a chain must be long: a hundred steps of 70 microseconds come out 5 too slow.
    """

    repeats: int
    microseconds: float
    rotate_bytes: int
    min_steps: int = 8
    max_steps: int = 400


BENCHMARK = Effort(9, 40_000, 400 * 2**20)  # several times any last-level cache
TRIAL = Effort(9, 8_000, 64 * 2**20)


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


def time_chain(chain: Callable[[int], Array], effort: Effort) -> tuple[float, float, float]:
    """Median, fastest and slowest microseconds of one of the `n` dependent steps of `chain(n)`."""
    once = _measure(lambda: chain(effort.min_steps), effort.min_steps, effort.repeats)[0]
    steps = int(min(effort.max_steps, max(effort.min_steps, effort.microseconds / once)))
    return _measure(lambda: chain(steps), steps, effort.repeats)


def _measure(chain: Callable[[], Array], steps: int, repeats: int) -> tuple[float, float, float]:
    """Microseconds per step; the graph is built before the clock starts."""
    import mlx.core as mx

    mx.eval(chain())
    times = []
    for _ in range(repeats):
        out = chain()
        mx.synchronize()
        start = time.perf_counter()
        mx.eval(out)
        mx.synchronize()
        times.append((time.perf_counter() - start) / steps * 1e6)
    return statistics.median(times), min(times), max(times)


@dataclass(frozen=True)
class Roof:
    """What this GPU does at best: GB/s of a copy (read plus written), and TFLOP/s of a float16 matrix product."""

    copy: float
    flops: float

    @classmethod
    def measured(cls, copied: int = 2**30, order: int = 4096, repeats: int = 9) -> Roof:
        """Both measured now: a copy of so many bytes, and a product of square matrices."""
        import mlx.core as mx

        x = mx.random.normal((copied // 4,))
        a = (mx.random.normal((order, order)) * order**-0.5).astype(mx.float16)
        mx.eval(x, a)

        def copies() -> Array:
            y = x
            for _ in range(8):
                y = -y
            return y

        def products() -> Array:
            y = a
            for _ in range(8):
                y = y @ a
            return y

        copy = 2 * copied / _measure(copies, 8, repeats)[0] / 1e3
        return cls(copy, 2 * order**3 / _measure(products, 8, repeats)[0] / 1e6)

    def least_microseconds(self, nbytes: int, operations: int) -> float:
        """The roofline: what so many bytes and floating-point operations take at least."""
        return max(nbytes / self.copy / 1e3, operations / self.flops / 1e6)
