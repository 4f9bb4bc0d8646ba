"""Half of the control arm: plain TPE, which sees the defaults and the control arm only."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal


class PlainTpe(Chooser):
    """Optuna without agents."""

    name = "tpe"
    summary = "control: plain TPE"
    arm = "control"
    share = 0.5

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """What the sampler suggests; a random new configuration when it only repeats itself."""
        study = context.study(slot.model, "control")
        spec = context.first_new(lambda attempt: study.ask(context.number, attempt)) or context.random(slot.model)
        return Proposal(spec=spec, proposer=self.name, arm="control", rationale="Control arm: plain TPE.")
