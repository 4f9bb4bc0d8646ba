"""Depth trials: ladders of one configuration on ever more layers, and on single ones, the same on every model."""

from __future__ import annotations

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.agents.samplers.neighbour import frontier
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal, TrialRecord

BUDGETS = (4.6, 3.5, 6.6)
"""Bits per value for which the best configuration gets a ladder, in turns."""


class Depth(Chooser):
    """Climbs one ladder after the other; the first is the default 4-bit cache."""

    name = "depth"
    summary = "error as a function of the quantized layers"
    share = 0.14

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """The next rung of the ladder that the model is on, or the first of a new one."""
        done = [r for r in context.history.records if r.spec.protocol == self.name]
        own = [r for r in done if r.spec.model == slot.model and r.proposer == self.name]
        for kv in self._anchors(slot.model, own, done, context):
            for layers in ladder(context.infos[slot.model].n_layers):
                spec = context.trial(kv.on(layers), slot.model, self.name)
                if spec is not None and context.is_new(spec):
                    return Proposal(spec=spec, proposer=self.name, rationale=f"Error by depth of [{kv.label}].")
        return None

    @staticmethod
    def _anchors(model: str, own: list[TrialRecord], done: list[TrialRecord], context: ProposalContext) -> list[KVSpec]:
        """Configurations to climb, first the one begun, then what other models have climbed, then the best."""
        begun = [own[-1].spec.kv.on(None)] if own else []
        defaults = [spec.kv for spec in context.space.defaults(context.infos[model]) if spec.kv != KVSpec()]
        elsewhere = [r.spec.kv.on(None) for r in done if r.spec.model != model]
        front = [cell for cell in frontier(model, context) if cell.spec.layers is None]
        best = []
        for bits in BUDGETS:
            within = [cell for cell in front if (cell.bits or 0.0) <= bits]
            if within:
                best.append(min(within, key=lambda cell: cell.level).spec.kv)
        return list(dict.fromkeys((*begun, *defaults[:1], *elsewhere, *best, *defaults)))


def ladder(n: int) -> list[tuple[int, ...] | None]:
    """Layers to quantize: the first quarter, half, three quarters, all of `n`; the first, middle and last alone."""
    upto = [tuple(range(max(1, round(n * share)))) for share in (0.25, 0.5, 0.75)]
    alone = [(0,), (n // 2,), (n - 1,)]
    return list(dict.fromkeys((upto[1], None, upto[0], alone[0], upto[2], alone[1], alone[2])))
