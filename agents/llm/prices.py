"""What tokens cost: a table of list prices, overridden by settings. Local servers cost nothing."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.agents.llm.settings import LlmSettings
from swarm.kernels.errors import UsageError

# USD per million tokens, input and output; list prices of 2025. A longer name wins over its beginning.
TABLE: dict[str, tuple[float, float]] = {
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
    """The price of a model: from the settings, else from the table; servers on this machine are free.

    Args:
        model: the model's name.
        settings: may give prices.
        loopback: whether the server runs on this machine.
        capped: whether the campaign has a limit in USD, which an unknown price could not keep.

    Raises:
        UsageError: the price is unknown and a limit depends on it.
    """
    if settings.llm_price_in is not None and settings.llm_price_out is not None:
        return Price(settings.llm_price_in, settings.llm_price_out)
    if loopback:
        return FREE
    known = [name for name in TABLE if model == name or model.startswith(f"{name}-")]
    if known:
        return Price(*TABLE[max(known, key=len)])
    if capped:
        raise UsageError(
            f"the price of {model!r} is unknown, so --max-usd cannot be kept.",
            "Give llm_price_in and llm_price_out (USD per million tokens) in swarm.toml, or leave --max-usd out.",
        )
    return FREE
