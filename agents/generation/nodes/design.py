"""Trials of the designed experiment: the same configurations on every model, at equal bits, on planned text windows."""

from __future__ import annotations

from swarm.agents.analysis import design
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal


class DesignNode(GenerationNode):
    """The next configuration of the design; once more on other windows when all were measured."""

    name = "design"
    share = 0.26

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial of the design; None when it is complete, or the model cannot run all of it."""
        wanted = [context.trial(kv, context.model) for kv in design.rows().values()]
        for replicate in range(design.REPLICATES):
            for spec in wanted:
                if spec is None:
                    return None
                trial = spec.model_copy(update={"replicate": replicate, "seed": spec.seed + replicate})
                if context.is_new(trial):
                    words = "; ".join(factor.words for factor in design.FACTORS)
                    return Proposal(spec=trial, proposer=self.name, rationale=f"Designed experiment on {words}.")
        return None
