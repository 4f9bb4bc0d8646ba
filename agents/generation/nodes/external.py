"""Proposals from outside: what other agents and people have left for the campaign."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal


class ExternalNode(GenerationNode):
    """Takes over the next trial of the agents' arm once something was left; has no share of its own."""

    name = "offered"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The oldest proposal from outside that is still new; None while nobody has left one."""
        return next((proposal for proposal in context.external() if context.is_new(proposal.spec)), None)
