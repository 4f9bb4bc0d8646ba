"""What calls cost: prices of tokens, and the reservation in the campaign's ledger that every call starts with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.agents.llm.endpoint import LlmSettings
from swarm.kernels.errors import UsageError
from swarm.memory.errors import BudgetError
from swarm.memory.records import AgentCall, Reservation

if TYPE_CHECKING:
    from swarm.memory.store import Store

TEMPLATE_TOKENS = 64
"""Tokens that a chat template adds to a prompt, at most."""

# USD per million tokens, input and output; list prices of 2025. A longer name wins over its beginning.
LIST_PRICES: dict[str, tuple[float, float]] = {
    "gpt-5": (1.25, 10.0),
    "gpt-5-mini": (0.25, 2.0),
    "gpt-5-nano": (0.05, 0.4),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "o3": (2.0, 8.0),
    "o4-mini": (1.1, 4.4),
}


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    tokens_in: float
    tokens_out: float

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


FREE = Price(0.0, 0.0)


def price(model: str, settings: LlmSettings, *, loopback: bool, capped: bool) -> Price:
    """The price of a model: from the settings, else from the table; `loopback`, a server on this machine, is free.

    Raises:
        UsageError: the price is unknown and the campaign's limit in USD (`capped`) depends on it.
    """
    if settings.llm_price_in is not None and settings.llm_price_out is not None:
        return Price(settings.llm_price_in, settings.llm_price_out)
    if loopback:
        return FREE
    known = [name for name in LIST_PRICES if model == name or model.startswith(f"{name}-")]
    if known:
        return Price(*LIST_PRICES[max(known, key=len)])
    if capped:
        raise UsageError(
            f"the price of {model!r} is unknown, so --max-usd cannot be kept.",
            "Give llm_price_in and llm_price_out (USD per million tokens) in swarm.toml, or leave --max-usd out.",
        )
    return FREE


@dataclass(frozen=True)
class CallReservation:
    """What is set aside for one call."""

    tokens: Reservation
    usd: Reservation
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class CallBudget:
    """The accounts that a campaign's calls are paid from."""

    store: Store
    campaign_id: int
    price: Price

    def reserve(self, role: str, messages: Sequence[dict[str, Any]], extra: object, max_output: int) -> CallReservation:
        """Set aside the most that a call can cost: `extra` is what else is sent, `max_output` counts tokens.

        No tokenizer makes more tokens than a text has bytes: the bound holds for every model.

        Raises:
            BudgetError: the budget does not cover it.
        """
        sent = json.dumps([list(messages), extra], ensure_ascii=False, default=str).encode()
        tokens_in = len(sent) + TEMPLATE_TOKENS
        ledger = self.store.ledger
        tokens = ledger.reserve(self.campaign_id, "tokens", tokens_in + max_output, role)
        try:
            usd = ledger.reserve(self.campaign_id, "usd", self.price.usd(tokens_in, max_output), role)
        except BudgetError:
            ledger.release(tokens)
            raise
        return CallReservation(tokens, usd, tokens_in, max_output)

    def settle(self, hold: CallReservation, call: AgentCall) -> None:
        """Record a call with what it really cost and close its reservations, in one transaction."""
        spent = call.model_copy(update={"usd": self.price.usd(call.tokens_in, call.tokens_out)})
        used = {hold.tokens: spent.tokens_in + spent.tokens_out, hold.usd: spent.usd}
        self.store.agent_calls.add(self.campaign_id, spent, used)
