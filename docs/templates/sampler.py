"""Template of a sampler: a random configuration of the model's space."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.memory.records import Proposal


class Uniform(Sampler):
    """Every parameter uniformly at random; new configurations only."""

    name = "uniform"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A configuration that no earlier trial has; None when chance finds none."""
        spec = context.space.random(context.rng, context.info)
        if not context.is_new(spec):
            return None
        return Proposal(spec=spec, proposer=self.name, rationale="Drawn uniformly.")
