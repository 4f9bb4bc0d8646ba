"""Proposes a configuration drawn from the whole space, all equally likely."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal

TRIES = 200
"""Draws that are all known after which the space counts as used up."""


class RandomSampler(Sampler):
    """The last resort: it is asked when no other sampler has an idea, and always has one."""

    name = "random"

    def propose(self, context: ProposalContext) -> Proposal:
        """A random new configuration."""
        return Proposal(spec=draw(context), proposer=self.name, rationale="No proposer had an idea.")


def draw(context: ProposalContext) -> TrialSpec:
    """A configuration of the context's model that nobody has proposed.

    A space that is used up is measured again, on the next text windows and with the next seed that are not taken.
    """

    def once(_: int = 0) -> TrialSpec:
        return context.space.random(context.rng, context.info)

    spec = context.first_new(once, TRIES) or once()
    while not context.is_new(spec):
        spec = spec.model_copy(update={"replicate": spec.replicate + 1, "seed": spec.seed + 1})
    return spec
