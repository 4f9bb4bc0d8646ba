"""Proposes what TPE suggests when it sees everything that the swarm knows about the model."""

from __future__ import annotations

from swarm.agents.generation.context import Desk
from swarm.agents.samplers.base import Proposer
from swarm.memory.records import Proposal


class Sampler(Proposer):
    """Optuna's multi-objective TPE over all trials of the model, other proposers' included."""

    name = "sampler"
    summary = "TPE over everything the swarm measured on the model"

    def propose(self, model: str, desk: Desk) -> Proposal | None:
        """The sampler's answer; None when it only repeats itself."""
        study = desk.study(model, "agents")
        spec = desk.first_new(lambda attempt: study.ask(desk.number, attempt))
        if spec is None:
            return None
        return Proposal(spec=spec, proposer=self.name, rationale="TPE over all trials of this model.")
