"""Trials that decide the published claims of a campaign. Without such claims it has no share."""

from __future__ import annotations

from itertools import groupby

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
        wanted = context.plan.wanted(context.history) if context.plan is not None else ()
        for _, group in groupby(wanted, key=lambda entry: id(entry[0])):
            of_first = list(group)
            here = (entry for entry in of_first if entry[1].model == context.model)
            case, spec, prediction = next(here, of_first[0])
            why = f"{case.claim.id}: {case.claim.says}."
            return Proposal(spec=spec, proposer=self.name, rationale=why[:1_000], prediction=prediction)
        return None
