"""Trials that decide the claims of the campaign's agenda. Without an agenda it has no share."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal

SHARE = 0.85
"""Of the agents' arm, while an agenda has trials left."""


class Agenda(Chooser):
    """The next planned trial, on the slot's model when the case in question needs one there."""

    name = "agenda"
    summary = "trials that decide published claims"

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """A planned trial; None when all have been proposed."""
        if context.plan is None:
            return None
        first = None
        for case, spec, prediction in context.plan.wanted(context.history):
            if first is not None and case is not first[0]:
                break
            if first is None or spec.model == slot.model:
                first = (case, spec, prediction)
            if spec.model == slot.model:
                break
        if first is None:
            return None
        case, spec, prediction = first
        why = f"{case.claim.id}: {case.claim.says}."
        return Proposal(spec=spec, proposer=self.name, rationale=why[:1_000], prediction=prediction)
