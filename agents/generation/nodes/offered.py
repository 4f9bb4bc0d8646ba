"""Proposals from outside: what other agents and people have left for the campaign."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal

NAME = "offered"


class Offered(Chooser):
    """Takes the oldest offer that is still new, on the next turn of the agents' arm. Has no turns of its own."""

    name = NAME
    summary = "proposals that other agents and people have left"

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:  # noqa: ARG002
        """An offer; None while nobody has left one."""
        return next((proposal for proposal in context.external() if context.is_new(proposal.spec)), None)
