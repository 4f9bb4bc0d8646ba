"""Proposes what TPE suggests when it sees everything that the swarm knows about the model."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Proposer
from swarm.memory.records import Proposal


class Sampler(Proposer):
    """Optuna's multi-objective TPE over all trials of the model, other proposers' included."""

    name = "sampler"
    summary = "TPE over everything the swarm measured on the model"

    def propose(self, model: str, context: ProposalContext) -> Proposal | None:
        """The sampler's answer; None when it only repeats itself."""
        study = context.study(model, "agents")
        spec = context.first_new(lambda attempt: study.ask(context.number, attempt))
        if spec is None:
            return None
        return Proposal(spec=spec, proposer=self.name, rationale="TPE over all trials of this model.")
