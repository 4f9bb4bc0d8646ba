"""Whether a cache loses more than a margin on a task: a paired sequential test that may stop at any item."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log, log1p
from typing import Literal

from swarm.kernels.errors import UsageError

Outcome = Literal["safe", "harmful", "undecided"]

Plan = tuple[tuple[float, float], ...]
"""Shares of the stake, each with the distance from the margin that it bets on, in margins."""

SAFE_PLAN: Plan = ((1.0, 0.8), (0.5, 0.2))
"""Most configurations that are safe lose nothing, so that they are one margin away from it."""
HARMFUL_PLAN: Plan = ((1.0, 0.4), (3.0, 0.2), (10.0, 0.2), (30.0, 0.2))
"""How much a harmful one loses nobody knows."""

MAX_STAKE_AT_RISK = 0.5
"""Share of the capital that the worst possible item may take."""


@dataclass(frozen=True)
class Decision:
    """What a sequential test says after the items that it needed.

    - safe: the mean loss is below the margin. harmful: it is above. undecided: the items did not suffice.
    - `items` is how many were read, `loss` their mean loss (which, as reading stopped when it was extreme, is
      a description of the items and no unbiased estimate).
    """

    outcome: Outcome
    items: int
    loss: float


class Bets:
    """Capital of somebody who bets that losses lie on one side of the margin; 1 at the beginning.

    If they do not, no strategy makes it grow on average, and it reaches 1 / alpha with probability alpha at most.

    Args:
        plan: what is bet on.
        margin: the mean loss at which the bets are fair.
        sign: 1 for a bet on losses above the margin, -1 for one on losses below.
        least: the smallest loss that there can be.
    """

    def __init__(self, plan: Plan, margin: float, sign: int, least: float = -1.0) -> None:
        self._margin, self._sign = margin, sign
        self._distances = [distance * margin for distance, _ in plan]
        self._logs = [log(share) for _, share in plan]
        self._most = MAX_STAKE_AT_RISK / (margin - least if sign > 0 else 1 - margin)

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital."""
        top = max(self._logs)
        return top + log(sum(exp(value - top) for value in self._logs))

    def settle(self, loss: float, square: float) -> None:
        """Take in one item. `square` is the mean squared loss of the items before it, which decides the stakes."""
        gain = self._sign * (loss - self._margin)
        for index, distance in enumerate(self._distances):
            self._logs[index] += log1p(min(distance / square, self._most) * gain)


def decide(losses: Iterable[float], margin: float = 0.01, alpha: float = 0.05) -> Decision:
    """Whether the mean loss per item is below a margin; reads only as many items as that takes.

    Two bets run against each other, one that the mean loss is below the margin and one that it is above. Whichever
    multiplies its capital by 1 / alpha has decided. By Ville's inequality the decision is wrong with a probability
    of at most alpha, whatever the distribution of the losses, and although it is looked at after each item
    (Waudby-Smith and Ramdas, arXiv 2010.09686). Stakes are distance / mean square, which is best for small means.

    Args:
        losses: per item the score of the 16-bit run less that of the quantized one, in [-1, 1], in random order;
            may be a generator that measures each item when it is asked for.
        margin: the largest mean loss that is accepted; 0.01 is one point in a hundred.
        alpha: the probability of a wrong decision that is accepted.

    Raises:
        UsageError: a loss outside [-1, 1], a margin outside (0, 1), or an alpha outside (0, 0.5).
    """
    if not 0 < margin < 1:
        raise UsageError(f"a margin of {margin} is not between 0 and 1.", "Give 0.01 for one point in a hundred.")
    if not 0 < alpha < 0.5:
        raise UsageError(f"an error rate of {alpha} is not between 0 and 0.5.", "Give 0.05 for 5%.")
    bets: tuple[tuple[Outcome, Bets], ...] = (
        ("safe", Bets(SAFE_PLAN, margin, -1)),
        ("harmful", Bets(HARMFUL_PLAN, margin, 1)),
    )
    items, total, squares = 0, 0.0, 1.0  # as if one item with a loss of 1 had been seen before: careful at first
    for loss in losses:
        if not -1 <= loss <= 1:
            raise UsageError(f"a loss of {loss} is not between -1 and 1.", "Give differences of scores in [0, 1].")
        items += 1
        for _, bet in bets:
            bet.settle(loss, squares / items)
        total, squares = total + loss, squares + loss**2
        outcome, capital = max(((name, bet.log_capital) for name, bet in bets), key=lambda one: one[1])
        if capital >= -log(alpha):
            return Decision(outcome, items, total / items)
    return Decision("undecided", items, total / max(items, 1))
