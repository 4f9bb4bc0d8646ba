"""Template of a kind of trial: the default configurations again, on other text windows."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal


class RepeatedDefault(GenerationNode):
    """A replicate of a default that was measured once."""

    name = "repeated_default"
    share = 0.02

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first default of the model without a replicate; None when all have one."""
        for record in context.history.select(model=context.model, protocol="quality"):
            if record.arm != "defaults":
                continue
            spec = record.spec.model_copy(update={"replicate": record.spec.replicate + 1})
            if context.is_new(spec):
                return Proposal(spec=spec, proposer=self.name, rationale=f"Repeats trial {record.id}.")
        return None
