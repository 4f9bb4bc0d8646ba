"""Attention trials: one layer at a time, spread evenly over the depth, the same configurations on every model."""

from __future__ import annotations

from math import sqrt

from swarm.agents.desk import Desk
from swarm.agents.proposers.neighbour import frontier
from swarm.agents.schedule import Slot
from swarm.agents.slots.base import Chooser
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal, TrialRecord

GOLDEN = (sqrt(5) - 1) / 2


class Attention(Chooser):
    """Numerics of the attention of single layers, where errors can be explained."""

    name = "attention"
    summary = "one layer's logits, output and attention, spread over the depth"
    share = 0.18

    def choose(self, slot: Slot, desk: Desk) -> Proposal | None:
        """The counterpart of another model's trial on odd turns, else the configuration that was looked at least."""
        done = [r for r in desk.history.records if r.spec.protocol == self.name]
        if slot.index % 2:
            proposal = self._mirror(slot.model, done, desk)
            if proposal is not None:
                return proposal
        n = desk.infos[slot.model].n_layers
        layer = int((0.5 + slot.index * GOLDEN) % 1 * n)
        counts: dict[KVSpec, int] = {}
        for record in done:
            if record.spec.model == slot.model:
                counts[record.spec.kv] = counts.get(record.spec.kv, 0) + 1
        for kv in sorted(_pool(slot.model, desk), key=lambda kv: counts.get(kv, 0)):
            for step in range(n):
                spec = desk.trial(kv, slot.model, self.name, ((layer + step) % n,))
                if spec is not None and desk.is_new(spec):
                    return Proposal(spec=spec, proposer=self.name, rationale="Looks into one layer's attention.")
        return None

    def _mirror(self, model: str, done: list[TrialRecord], desk: Desk) -> Proposal | None:
        """The same configuration at the same relative depth as a trial that this model lacks."""
        n = desk.infos[model].n_layers
        for record in done:
            other = desk.infos[record.spec.model]
            if record.spec.model == model or not record.spec.layers:
                continue
            layer = round(record.spec.layers[0] * (n - 1) / max(other.n_layers - 1, 1))
            spec = desk.trial(record.spec.kv, model, self.name, (layer,))
            if spec is not None and desk.is_new(spec):
                why = f"Counterpart of trial {record.id} on {other.name}."
                return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


def _pool(model: str, desk: Desk) -> list[KVSpec]:
    """What is worth looking into: the defaults and the Pareto front, quantized ones only."""
    defaults = [spec.kv for spec in desk.space.defaults(desk.infos[model])]
    best = [cell.configuration.kv for cell in frontier(model, desk) if cell.configuration.layers is None]
    return [kv for kv in dict.fromkeys((*defaults, *best)) if kv != KVSpec()]
