"""Successive halving of our own: the best of a rung, by noise-aware Pareto rank, go on to the next."""

from __future__ import annotations

from swarm.agents.analysis import pareto
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import Chooser
from swarm.agents.generation.schedule import Slot
from swarm.experiments.protocols.base import protocol
from swarm.memory.records import Proposal

ETA = 3
"""One of so many finished trials of a rung goes on."""


class Promotion(Chooser):
    """Full measurement of what the cheap rung could not rule out."""

    name = "promotion"
    summary = "the next rung for configurations that nothing dominates"
    share = 0.12

    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """The candidate of the highest rung that has one to give; None when nothing has earned it."""
        for rung in reversed(range(len(protocol("quality").rungs) - 1)):
            cells = self._finished(slot.model, rung, context)
            done = sum(
                r.spec.model == slot.model and r.spec.protocol == "quality" and r.spec.rung == rung + 1
                for r in context.history.records
                if not r.outdated
            )
            if (done + 1) * ETA > len(cells):
                continue
            for rank, cell in self._order(cells):
                trial = cell.records[0]
                spec = trial.spec.model_copy(update={"rung": rung + 1})
                if context.is_new(spec):
                    why = f"Pareto rank {rank} of {len(cells)} configurations on rung {rung}: trial {trial.id}."
                    return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None

    @staticmethod
    def _finished(model: str, rung: int, context: ProposalContext) -> list[ConfigResult]:
        bound = context.settings.max_bits
        return [
            cell
            for (name, _), cell in context.cells.items()
            if name == model and cell.spec.rung == rung and cell.bits is not None and cell.bits <= bound
        ]

    @staticmethod
    def _order(cells: list[ConfigResult]) -> list[tuple[int, ConfigResult]]:
        """By rank; within a rank the lonely first, so that the front is known over all of its length."""
        ranked = list(zip(pareto.ranks(cells), cells, strict=True))

        def crowding(entry: tuple[int, ConfigResult]) -> tuple[int, float, int]:
            rank, cell = entry
            peers = sorted(c.bits or 0.0 for r, c in ranked if r == rank)
            place = peers.index(cell.bits or 0.0)
            # The ends count by their one neighbour: nobody deploys the front's extremes before its middle.
            gap = peers[min(place + 1, len(peers) - 1)] - peers[max(place - 1, 0)]
            return rank, -gap, cell.records[0].number

        return sorted(ranked, key=crowding)
