"""Quality trials of new configurations: the defaults, the agents' search, and the control arm."""

from __future__ import annotations

from swarm.agents.generation import bandit
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.agents.samplers.random import RandomSampler, draw
from swarm.agents.samplers.tpe import TpeSampler
from swarm.memory.records import Proposal


class DefaultNode(GenerationNode):
    """The defaults of the space, in order, measured before anything else; once more when a version was raised."""

    name = "default"
    arm = "defaults"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first default that is new; None when all were proposed before."""
        spec = next(filter(context.is_new, context.space.defaults(context.info)), None)
        if spec is None:
            return None
        return Proposal(spec=spec, proposer="defaults", arm="defaults", rationale="Always measured: a default.")


class QualityNode(GenerationNode):
    """The first rung: new configurations on whole models and bands of layers."""

    name = "quality"
    share = 0.46

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The proposal of the first sampler that has one, in the order of a draw by credit; at last a random one."""
        rates = bandit.hit_rates(context.history.records, context.settings)
        names = sorted(set(context.samplers) - {RandomSampler.name})
        asked = (context.samplers[name](context) for name in bandit.order(names, rates, context.rng))
        return next((proposal for proposal in asked if proposal is not None), None) or RandomSampler().propose(context)


class RandomNode(GenerationNode):
    """Half of the control arm: uniform over the space, whatever the results."""

    name = "random_search"
    arm = "control"
    share = 0.5

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A random new configuration."""
        why = "Control arm: random search."
        return Proposal(spec=draw(context), proposer=self.name, arm="control", rationale=why)


class TpeNode(GenerationNode):
    """Half of the control arm: Optuna without agents, which sees the defaults and the control arm only."""

    name = "tpe"
    arm = "control"
    share = 0.5

    def __init__(self) -> None:
        self._tpe = TpeSampler()

    def propose(self, context: ProposalContext) -> Proposal | None:
        """What TPE suggests; a random new configuration when it only repeats itself."""
        seen = [record for record in context.history.records if record.arm != "agents"]
        spec = self._tpe.suggest(context, seen) or draw(context)
        return Proposal(spec=spec, proposer=self.name, arm="control", rationale="Control arm: plain TPE.")
