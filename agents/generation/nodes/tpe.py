"""Half of the control arm: plain TPE, which sees the defaults and the control arm only."""

from __future__ import annotations

from swarm.agents.generation.context import Desk
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.memory.records import Proposal


class PlainTpe(Chooser):
    """Optuna without agents."""

    name = "tpe"
    summary = "control: plain TPE"
    arm = "control"
    share = 0.5

    def choose(self, slot: Slot, desk: Desk) -> Proposal | None:
        """What the sampler suggests; a random new configuration when it only repeats itself."""
        study = desk.study(slot.model, "control")
        spec = desk.first_new(lambda attempt: study.ask(desk.number, attempt)) or desk.random(slot.model)
        return Proposal(spec=spec, proposer=self.name, arm="control", rationale="Control arm: plain TPE.")
