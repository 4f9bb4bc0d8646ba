"""Trials of the designed experiments: the same configurations on every model, at equal bits, on planned windows."""

from __future__ import annotations

from itertools import product

from swarm.agents.analysis import design
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal


class DesignNode(GenerationNode):
    """The next configuration of a block of the design; once more on other windows when all were measured."""

    name = "design"
    share = 0.26

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first missing trial of the first block that the model can run all of; None when all are complete."""
        for block, replicate in product(design.blocks(context.info), range(design.REPLICATES)):
            wanted = [context.trial(kv, context.model) for kv in block.rows.values()]
            for spec in wanted if all(wanted) else ():
                if spec is None:
                    continue
                trial = spec.model_copy(update={"replicate": replicate, "seed": spec.seed + replicate})
                if context.is_new(trial):
                    words = "; ".join(factor.words for factor in block.factors)
                    return Proposal(spec=trial, proposer=self.name, rationale=f"Designed experiment on {words}.")
        return None
