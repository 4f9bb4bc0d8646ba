"""Finalists of an engine: the flags that nothing beats are measured again, with several clients and on other text."""

from __future__ import annotations

from swarm.agents.analysis import engine_speed, pareto
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal


class FinalistNode(GenerationNode):
    """The upper rung of engine trials, for the front of the model, the quickest answer to a whole request first."""

    name = "finalist"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first finalist without such a trial; None while nothing is feasible."""
        found = context.history.select(model=context.model, protocol=engine_speed.PROTOCOL)
        for record in engine_speed.front(filter(pareto.is_search, found), context.settings):
            changes = {"rung": 1, "replicate": 1, "seed": record.spec.seed + 1}
            spec = record.spec.model_copy(update=changes)
            if context.is_new(spec):
                why = f"Nothing beats trial {record.id}: again on other text, with several clients at once."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None
