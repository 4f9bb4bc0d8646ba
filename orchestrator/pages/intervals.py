"""Intervals of stored metrics: the same Student t interval that judges findings. Knows no store."""

from __future__ import annotations

from dataclasses import replace

from swarm.orchestrator.pages.blocks import Interval


def of(value: float, stderr: float | None, n: int | None, unit: str = "") -> Interval:
    """The 95% interval of a mean over `n` windows; of no width when nothing is known of its error."""
    from swarm.agents.analysis.statistics import Estimate

    if stderr is None or n is None or n < 2:
        return Interval(value, value, value, unit)
    low, high = Estimate(value, stderr, n - 1, n).interval()
    return Interval(value, low, high, unit)


def kld(value: float, stderr: float | None, n: int | None) -> Interval:
    """The interval of a divergence, which cannot be negative."""
    span = of(value, stderr, n)
    return replace(span, low=max(span.low, 0.0))
