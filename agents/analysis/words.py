"""Effects in words, as findings say them."""

from __future__ import annotations

from math import exp

from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.memory.records import Effect

LITTLE = exp(NEGLIGIBLE)
"""A ratio within this factor of 1 is not worth a claim."""
HALF, DOUBLE = (0.45, 0.55), (1.82, 2.22)


def change(effect: Effect, what: str = "the KLD") -> str:
    """What several things do to a quantity, by the ratio that they bring about.

    Returns:
        For instance `halve the KLD`, `lower the KLD by 18%`, or `change nothing that can be told`.
    """
    ratio = effect.value
    if 1 / LITTLE < ratio < LITTLE and (effect.low > 1 / LITTLE and effect.high < LITTLE):
        return "change nothing"
    if effect.low <= 1 <= effect.high:
        return "change nothing that can be told"
    if HALF[0] < ratio < HALF[1]:
        return f"halve {what}"
    if DOUBLE[0] < ratio < DOUBLE[1]:
        return f"double {what}"
    if ratio <= HALF[0]:
        return f"divide {what} by {1 / ratio:.2g}"
    if ratio >= DOUBLE[1]:
        return f"multiply {what} by {ratio:.2g}"
    return f"{'lower' if ratio < 1 else 'raise'} {what} by {abs(1 - ratio):.0%}"


def interval(effect: Effect) -> str:
    """The interval of an effect, e.g. `[0.42, 0.58]`."""
    return f"[{effect.low:.2g}, {effect.high:.2g}]"
