"""Attention trials: all layers or one at a time, spread evenly over the depth, the same on every model."""

from __future__ import annotations

from collections import Counter
from math import sqrt

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.agents.samplers.neighbour import frontier
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal, TrialRecord

GOLDEN = (sqrt(5) - 1) / 2


class Attention(Chooser):
    """Numerics of the attention of single layers, where errors can be explained."""

    name = "attention"
    summary = "one layer's logits, output and attention, spread over the depth"
    share = 0.18

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """In turns: a configuration on all layers, one on a single layer, and another model's trial repeated here."""
        done = [r for r in context.history.records if r.spec.protocol == self.name]
        if slot.index % 3 == 2:
            proposal = self._mirror(slot.model, done, context)
            if proposal is not None:
                return proposal
        return self._explore(slot, [r for r in done if r.spec.model == slot.model], context)

    def _explore(self, slot: Slot, done: list[TrialRecord], context: ProposalContext) -> Proposal | None:
        """What was looked at least: on all layers, or on the next layer of a sequence that fills the depth evenly."""
        n = context.infos[slot.model].n_layers
        first = int((0.5 + slot.index * GOLDEN) % 1 * n)
        whole = slot.index % 3 == 0
        scopes: list[tuple[int, ...] | None] = [None] if whole else [((first + step) % n,) for step in range(n)]
        counts = Counter(r.spec.kv.on(None) for r in done if (r.spec.layers is None) == whole)
        for kv in sorted(_pool(slot.model, context), key=lambda kv: counts[kv]):
            for layers in scopes:
                spec = context.trial(kv.on(layers), slot.model, self.name)
                if spec is not None and context.is_new(spec):
                    where = "all layers'" if whole else "one layer's"
                    return Proposal(spec=spec, proposer=self.name, rationale=f"Looks into {where} attention.")
        return None

    def _mirror(self, model: str, done: list[TrialRecord], context: ProposalContext) -> Proposal | None:
        """The same configuration at the same relative depth as a trial that this model lacks."""
        n = context.infos[model].n_layers
        for record in done:
            other = context.infos[record.spec.model]
            if record.spec.model == model:
                continue
            layers = record.spec.layers
            if layers is not None:
                layers = (round(layers[0] * (n - 1) / max(other.n_layers - 1, 1)),)
            spec = context.trial(record.spec.kv.on(layers), model, self.name)
            if spec is not None and context.is_new(spec):
                why = f"Counterpart of trial {record.id} on {other.name}."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


def _pool(model: str, context: ProposalContext) -> list[KVSpec]:
    """What is worth looking into: the defaults and the Pareto front, quantized ones only."""
    defaults = [spec.kv for spec in context.space.defaults(context.infos[model])]
    best = [cell.spec.kv for cell in frontier(model, context) if cell.spec.layers is None]
    return [kv for kv in dict.fromkeys((*defaults, *best)) if kv != KVSpec()]
