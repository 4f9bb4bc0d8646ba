"""Half of the control arm: seeded random search."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal


class RandomSearch(Chooser):
    """Uniform over the space; knows no results."""

    name = "random_search"
    summary = "control: seeded random search"
    arm = "control"
    share = 0.5

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """A random new configuration."""
        return Proposal(
            spec=context.random(slot.model), proposer=self.name, arm="control", rationale="Control arm: random search."
        )
