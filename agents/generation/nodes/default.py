"""The 16-bit run and the default configurations, measured before anything else."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal


class Default(Chooser):
    """The defaults of the space, in order."""

    name = "default"
    summary = "the 16-bit run and the default configurations"
    arm = "defaults"

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """The default of that index."""
        spec = context.space.defaults(context.infos[slot.model])[slot.index]
        if not context.is_new(spec):
            return None
        return Proposal(spec=spec, proposer="defaults", arm="defaults", rationale="Always measured: a default.")
