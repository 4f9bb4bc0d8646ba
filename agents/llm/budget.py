"""Money before words: reserves tokens and USD in the campaign's ledger before a call, and settles with its row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.agents.llm.prices import Price
from swarm.memory.errors import BudgetError
from swarm.memory.records import AgentCall, Reservation

if TYPE_CHECKING:
    from swarm.memory.store import Store

OVERHEAD = 64
"""Tokens that a chat template adds to a prompt, at most."""


@dataclass(frozen=True)
class Hold:
    """What is set aside for one call."""

    tokens: Reservation
    usd: Reservation
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Purse:
    """The accounts that a campaign's calls are paid from.

    Args:
        store: where ledger and calls are.
        campaign_id: whose budget.
        price: what tokens cost.
    """

    store: Store
    campaign_id: int
    price: Price

    def reserve(self, role: str, messages: Sequence[dict[str, Any]], extra: object, max_output: int) -> Hold:
        """Set aside the most that a call can cost.

        No tokenizer makes more tokens than a text has bytes: the bound holds for every model.

        Args:
            role: who calls.
            messages: the prompt.
            extra: what else is sent (schema, tools).
            max_output: tokens of the answer, at most.

        Raises:
            BudgetError: the budget does not cover it.
        """
        size = len(json.dumps([list(messages), extra], ensure_ascii=False, default=str).encode())
        tokens_in = size + OVERHEAD
        ledger = self.store.ledger
        tokens = ledger.reserve(self.campaign_id, "tokens", tokens_in + max_output, role)
        try:
            usd = ledger.reserve(self.campaign_id, "usd", self.price.usd(tokens_in, max_output), role)
        except BudgetError:
            ledger.release(tokens)
            raise
        return Hold(tokens, usd, tokens_in, max_output)

    def settle(self, hold: Hold, call: AgentCall) -> AgentCall:
        """Record a call with what it really cost and close its reservations, in one transaction."""
        spent = _costed(call, self.price)
        self.store.agent_calls.add(
            self.campaign_id, spent, {hold.tokens: spent.tokens_in + spent.tokens_out, hold.usd: spent.usd}
        )
        return spent

    def refused(self, call: AgentCall) -> None:
        """Record a call that was not made."""
        self.store.agent_calls.add(self.campaign_id, call)


def _costed(call: AgentCall, price: Price) -> AgentCall:
    """The call with its cost worked out."""
    return call.model_copy(update={"usd": price.usd(call.tokens_in, call.tokens_out)})
