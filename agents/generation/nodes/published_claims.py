"""Trials that decide the published claims of a campaign. Without such claims it has no share."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.memory.records import Proposal

SHARE = 0.85
"""Of the agents' arm, while the plan has trials left."""


class PublishedClaimsNode(GenerationNode):
    """The next planned trial, on the context's model when the case in question needs one there."""

    name = "agenda"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A planned trial; None when all have been proposed."""
        if context.plan is None:
            return None
        first = None
        for case, spec, prediction in context.plan.wanted(context.history):
            if first is not None and case is not first[0]:
                break
            if first is None or spec.model == context.model:
                first = (case, spec, prediction)
            if spec.model == context.model:
                break
        if first is None:
            return None
        case, spec, prediction = first
        why = f"{case.claim.id}: {case.claim.says}."
        return Proposal(spec=spec, proposer=self.name, rationale=why[:1_000], prediction=prediction)
