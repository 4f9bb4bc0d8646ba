"""Successive halving: the best of a rung, by noise-aware Pareto rank, go on to the next."""

from __future__ import annotations

from swarm.agents.analysis import pareto
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.experiments.protocols.base import protocol
from swarm.memory.records import Proposal

ETA = 3
"""One of so many finished trials of a rung goes on."""


class PromotionNode(GenerationNode):
    """Full measurement of what the cheap rung could not rule out."""

    name = "promotion"
    share = 0.12

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The candidate of the highest rung that has one to give; None when nothing has earned it."""
        for rung in reversed(range(len(protocol("quality").rungs) - 1)):
            found = [
                result
                for (name, _), result in context.results.items()
                if name == context.model
                and result.spec.rung == rung
                and result.bits is not None
                and result.bits <= context.settings.max_bits
            ]
            done = sum(
                r.spec.model == context.model and r.spec.protocol == "quality" and r.spec.rung == rung + 1
                for r in context.history.records
                if not r.outdated
            )
            if (done + 1) * ETA > len(found):
                continue
            for rank, result in _ordered(found):
                trial = result.records[0]
                spec = trial.spec.model_copy(update={"rung": rung + 1})
                if context.is_new(spec):
                    why = f"Pareto rank {rank} of {len(found)} configurations on rung {rung}: trial {trial.id}."
                    return Proposal(spec=spec, proposer=self.name, rationale=why)
        return None


def _ordered(found: list[ConfigResult]) -> list[tuple[int, ConfigResult]]:
    """Rank and result by rank; within a rank the lonely first, so that the front is known over all of its length."""
    ranked = list(zip(pareto.ranks(found), found, strict=True))

    def crowding(entry: tuple[int, ConfigResult]) -> tuple[int, float, int]:
        rank, result = entry
        peers = sorted(c.bits or 0.0 for r, c in ranked if r == rank)
        place = peers.index(result.bits or 0.0)
        # Both extremes of a front count by their one neighbour: nobody deploys them before the middle.
        gap = peers[min(place + 1, len(peers) - 1)] - peers[max(place - 1, 0)]
        return rank, -gap, result.records[0].number

    return sorted(ranked, key=crowding)
