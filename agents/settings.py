"""The options of a campaign's agents."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from swarm.kernels.spec import FrozenModel


def tokens(value: object) -> object:
    """A number of tokens, also as a text such as 2K or 32k.

    Raises:
        ValueError: a text that is none.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+)([kK]?)", value.strip())
    if found is None:
        raise ValueError("is no number of tokens, such as 2048 or 2K")
    return int(found[1]) * (1024 if found[2] else 1)


def _or_off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


LONG_PROTOCOLS = ("context", "retrieval")
"""What finalists are tried with at a long context, unless something else is asked for."""
Tokens = Annotated[int, BeforeValidator(tokens), Field(ge=1024, le=1 << 24)]


class AgentSettings(FrozenModel):
    """How a campaign's trials are shared out and what counts as a useful result.

    `control_share` of all trials after the defaults is the control arm; `shares` overrides the weights of the kinds
    of trial in the agents' arm (`agents.generation.nodes`, normalised). A configuration is feasible when its KLD is
    at most `max_kld` nats and its cost at most `max_bits` bits per value. `analyse_every` and `summarise_every` count
    trials between two runs of the analysts and between two summaries. With `long`, the finalists of each model are
    tried at a context of so many tokens as well (or the longest that the model reads and the protocol uses), with each
    of `protocols`.
    """

    control_share: float = Field(default=0.2, ge=0, le=1)
    shares: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    max_kld: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_bits: float = Field(default=9.0, gt=0, le=16)
    analyse_every: int = Field(default=10, ge=1)
    summarise_every: int = Field(default=110, ge=1)
    long: Annotated[Tokens | None, BeforeValidator(_or_off)] = None
    protocols: tuple[str, ...] = LONG_PROTOCOLS
