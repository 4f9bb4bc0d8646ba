"""Attention trials: all layers or one at a time, spread evenly over the depth, the same on every model."""

from __future__ import annotations

from collections import Counter
from math import sqrt

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal, TrialRecord

GOLDEN = (sqrt(5) - 1) / 2


class AttentionNode(GenerationNode):
    """Numerics of the attention of single layers, where errors can be explained."""

    name = "attention"
    share = 0.12

    def propose(self, context: ProposalContext) -> Proposal | None:
        """In turns: a configuration on all layers, one on a single layer, and another model's trial repeated here."""
        if not context.info.shown_layers:
            return None
        done = [r for r in context.history.records if r.spec.protocol == self.name]
        mirrored = self._mirror(done, context) if context.index % 3 == 2 else None
        return mirrored or self._explore([r for r in done if r.spec.model == context.model], context)

    def _explore(self, done: list[TrialRecord], context: ProposalContext) -> Proposal | None:
        """What was looked at least: on all layers, or on the next layer of a sequence that fills the depth evenly."""
        shown = context.info.shown_layers
        n = len(shown)
        first = int((0.5 + context.index * GOLDEN) % 1 * n)
        whole = context.index % 3 == 0
        scopes: list[tuple[int, ...] | None] = [None] if whole else [(shown[(first + step) % n],) for step in range(n)]
        counts = Counter(r.spec.kv.on(None) for r in done if (r.spec.layers is None) == whole)
        for kv in sorted(_pool(context), key=lambda kv: counts[kv]):
            for layers in scopes:
                spec = context.new_trial(kv.on(layers), self.name)
                if spec is not None:
                    where = "all layers'" if whole else "one layer's"
                    return Proposal(spec=spec, proposer=self.name, rationale=f"Looks into {where} attention.")
        return None

    def _mirror(self, done: list[TrialRecord], context: ProposalContext) -> Proposal | None:
        """The same configuration at the same relative depth as a trial that this model lacks."""
        shown = context.info.shown_layers
        for record in done:
            other = context.infos[record.spec.model]
            if other.name == context.model:
                continue
            layers = record.spec.layers
            if layers is not None:
                depth = layers[0] / max(other.n_layers - 1, 1)
                layers = (shown[round(depth * (len(shown) - 1))],)
            spec = context.new_trial(record.spec.kv.on(layers), self.name)
            if spec is not None:
                why = f"Counterpart of trial {record.id} on {other.name}."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


def _pool(context: ProposalContext) -> list[KVSpec]:
    """What is worth looking into: the defaults and the Pareto front, quantized ones only."""
    defaults = [spec.kv for spec in context.space.defaults(context.info)]
    best = [result.spec.kv for result in context.front(context.model) if result.spec.layers is None]
    return [kv for kv in dict.fromkeys((*defaults, *best)) if kv != KVSpec()]
