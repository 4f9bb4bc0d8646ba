"""Replications: the trials of open findings again, on other text windows and seeds."""

from __future__ import annotations

from swarm.agents.analysis import judge
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal


class ReplicationNode(GenerationNode):
    """The first missing trial of the most promising open finding, on the context's model when it needs one there."""

    name = "replication"
    share = 0.12

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A replication; None while no finding waits for one."""
        ordered = judge.replications(context.findings(), context.history)
        wanted = [(finding, spec) for finding, spec in ordered if context.is_new(spec)]
        if not wanted:
            return None
        first = wanted[0][0]
        of_first = [spec for finding, spec in wanted if finding.key == first.key]
        spec = next((spec for spec in of_first if spec.model == context.model), of_first[0])
        ids = context.ids.get(first.key)
        return Proposal(
            spec=spec,
            proposer=self.name,
            rationale=f"Replicates: {first.statement}"[:1_000],
            parents=() if ids is None else (ids,),
        )
