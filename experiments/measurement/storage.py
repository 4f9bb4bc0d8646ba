"""What the caches of a whole model hold, in bits per value. Knows caches; knows no runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.experiments.spec import Metric

if TYPE_CHECKING:
    from swarm.kernels.cache import PackedKVCache


def metrics(caches: Sequence[PackedKVCache]) -> tuple[Metric, Metric]:
    """`bits_per_value` over everything stored now, and `bits_per_value_limit`, its limit for long contexts.

    Tokens that a sliding window has left are released first. All layers count, also those that stay in 16 bit. In the
    limit every layer weighs the same: sinks, residual windows and codebooks vanish.
    """
    for cache in caches:
        cache.release()
    held = [(sum(side.live_nbytes for side in c.sides) * 8, sum(side.values for side in c.sides)) for c in caches]
    bits, values = (sum(column) for column in zip(*held, strict=True))
    limit = sum(c.limit_bits_per_value() for c in caches) / len(caches)
    return Metric.of("bits_per_value", bits / values, "bit"), Metric.of("bits_per_value_limit", limit, "bit")
