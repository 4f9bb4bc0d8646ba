"""Quality trials of the agents' arm: a proposer is drawn by its credit, and proposes."""

from __future__ import annotations

from swarm.agents.generation import bandit
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.agents.samplers.base import proposers
from swarm.memory.records import Proposal


class Quality(Chooser):
    """The first rung: new configurations on whole models and bands of layers."""

    name = "quality"
    summary = "new configurations, from the proposers by their credit"
    share = 0.46

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """The proposal of the first proposer, in the order of a draw by credit, that has one."""
        known = {**proposers(), **context.guests}
        for name in bandit.draw(sorted(known), context):
            proposal = known[name].propose(slot.model, context)
            if proposal is not None:
                return proposal
        return Proposal(spec=context.random(slot.model), proposer="random", rationale="No proposer had an idea.")
