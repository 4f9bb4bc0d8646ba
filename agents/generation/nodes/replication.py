"""Replications that the referee orders: the trials of open findings on other text windows and seeds."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal


class Replication(Chooser):
    """The first missing trial of the most promising open finding, on the slot's model when it needs one there."""

    name = "replication"
    summary = "open findings again, on other text windows and seeds"
    share = 0.12

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """A replication; None while no finding waits for one."""
        wanted = [(finding, spec) for finding, spec in context.replications() if context.is_new(spec)]
        if not wanted:
            return None
        first = wanted[0][0]
        of_first = [spec for finding, spec in wanted if finding.key == first.key]
        spec = next((spec for spec in of_first if spec.model == slot.model), of_first[0])
        ids = context.ids.get(first.key)
        return Proposal(
            spec=spec,
            proposer=self.name,
            rationale=f"Replicates: {first.statement}"[:1_000],
            parents=() if ids is None else (ids,),
        )
