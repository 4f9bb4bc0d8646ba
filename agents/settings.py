"""The options of a campaign's agents."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from swarm.kernels.spec import FrozenModel


class AgentSettings(FrozenModel):
    """How a campaign's trials are shared out and what counts as a useful result.

    `control_share` of all trials after the defaults is the control arm; `shares` overrides the weights of the kinds
    of trial in the agents' arm (`agents.generation.nodes`, normalised). A configuration is feasible when its KLD is
    at most `max_kld` nats and its cost at most `max_bits` bits per value. `analyse_every` and `summarise_every` count
    trials between two runs of the analysts and between two summaries.
    """

    control_share: float = Field(default=0.2, ge=0, le=1)
    shares: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    max_kld: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    max_bits: float = Field(default=9.0, gt=0, le=16)
    analyse_every: int = Field(default=10, ge=1)
    summarise_every: int = Field(default=110, ge=1)
