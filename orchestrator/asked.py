"""A campaign of given trials: those that somebody asked for, in order, and the built-in agents to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from swarm.kernels.spec import FrozenModel, KVSpec
from swarm.memory.records import Proposal

if TYPE_CHECKING:
    from swarm.agents.generation.strategy import GenerationStrategy
    from swarm.agents.history import History

PROPOSER = "recommend"
"""How these trials are signed."""


class AskedTrial(FrozenModel):
    """A quality trial of the campaign's model: its cache, its text windows, and why it is wanted."""

    kv: KVSpec
    replicate: int = Field(default=0, ge=0)
    why: str = Field(default="", max_length=1_000)


@dataclass(frozen=True)
class AskedStrategy:
    """Proposes the given trials; what there is beyond them comes from the built-in agents."""

    trials: Sequence[AskedTrial]
    agents: GenerationStrategy

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number."""
        if number >= len(self.trials):
            return self.agents.propose(number, history)
        asked = self.trials[number]
        plain = next(iter(self.agents.context(number, history).templates.values()))
        change = {"kv": asked.kv, "replicate": asked.replicate, "seed": plain.seed + asked.replicate}
        return Proposal(spec=plain.model_copy(update=change), proposer=PROPOSER, rationale=asked.why)

    def commentary(self, history: History) -> str:
        """What an LLM says, if one takes part."""
        return self.agents.commentary(history)
