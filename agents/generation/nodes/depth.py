"""Depth trials: one configuration on ever more layers, and on single ones, the same on every model."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal

BUDGETS = (4.6, 3.5, 6.6)
"""Bits per value for which the best configuration is measured, in turns."""


class DepthNode(GenerationNode):
    """Measures one configuration after the other on the layers of `subsets`; the first is the default 4-bit cache."""

    name = "depth"
    share = 0.1

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The next subset of layers under the first configuration that has not been measured on all of them."""
        for kv in self._configurations(context):
            kept = context.info.kv_layers
            for places in subsets(len(kept)):
                layers = None if places is None else [kept[place] for place in places]
                spec = context.new_trial(kv.on(layers), self.name)
                if spec is not None:
                    return Proposal(spec=spec, proposer=self.name, rationale=f"Error by depth of [{kv.label}].")
        return None

    def _configurations(self, context: ProposalContext) -> list[KVSpec]:
        """What is to be measured: the one begun first, then what other models have measured, then the best."""
        model = context.model
        done = [r for r in context.history.records if r.spec.protocol == self.name]
        begun = [r.spec.kv.on(None) for r in done if r.spec.model == model and r.proposer == self.name][-1:]
        defaults = [spec.kv for spec in context.space.defaults(context.info) if spec.kv != KVSpec()]
        elsewhere = [r.spec.kv.on(None) for r in done if r.spec.model != model]
        front = [result for result in context.front(model) if result.spec.layers is None]
        best = []
        for bits in BUDGETS:
            within = [result for result in front if (result.bits or 0.0) <= bits]
            if within:
                best.append(min(within, key=lambda result: result.level).spec.kv)
        return list(dict.fromkeys((*begun, *defaults[:1], *elsewhere, *best, *defaults)))


def subsets(n: int) -> list[tuple[int, ...] | None]:
    """Which of `n` layers to quantize: the first quarter, half, three quarters, all; the first, middle, last alone."""
    upto = [tuple(range(max(1, round(n * share)))) for share in (0.25, 0.5, 0.75)]
    alone = [(0,), (n // 2,), (n - 1,)]
    return list(dict.fromkeys((upto[1], None, upto[0], alone[0], upto[2], alone[1], alone[2])))
