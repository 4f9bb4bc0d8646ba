"""Carries what did well on one model over to another, with a registered prediction of how well it will do there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate, bounded_exp
from swarm.agents.generation.context import ProposalContext
from swarm.agents.samplers.base import Proposer
from swarm.agents.samplers.neighbour import frontier
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Prediction, Proposal

SIMILAR = 0.5
"""Bits per value that the comparison may be dearer or cheaper."""

CARRIED = 0.5
"""Share of the logarithmic gain that is predicted to carry over."""


@dataclass(frozen=True)
class Lesson:
    """On one model `winner` beats `loser`; the loser has been measured on the other model as trial `anchor`."""

    winner: ConfigResult
    loser: ConfigResult
    gain: Estimate
    anchor: int
    spec: TrialSpec


class Transfer(Proposer):
    """The clearest gain on another model that has not been tried on this one."""

    name = "transfer"
    summary = "what did well on another model, with a registered prediction"

    def propose(self, model: str, context: ProposalContext) -> Proposal | None:
        """A configuration of another model's front; None when all of them are known here."""
        lessons = sorted(self._lessons(model, context), key=lambda lesson: lesson.gain.interval()[1])
        if not lessons:
            return None
        best = lessons[0]
        source = best.winner.records[0]
        factor = bounded_exp(CARRIED * best.gain.mean)
        return Proposal(
            spec=best.spec,
            proposer=self.name,
            rationale=(
                f"On {source.spec.model} trial {source.id} beats trial {best.loser.records[0].id}; half of that "
                f"advantage over the same configuration here (trial {best.anchor}) should carry over."
            ),
            prediction=Prediction(metric="kld", comparator="<=", threshold=round(factor, 4), reference=best.anchor),
        )

    @staticmethod
    def _lessons(model: str, context: ProposalContext) -> Iterator[Lesson]:
        for other in context.infos:
            if other == model:
                continue
            anchors = [
                cell
                for (name, key), cell in context.cells.items()
                if name == other and (model, key) in context.cells and cell.spec.layers is None
            ]
            for winner in frontier(other, context):
                if winner.spec.layers is not None:
                    continue
                spec = context.trial(winner.spec.kv, model)
                if spec is None or not context.is_new(spec):
                    continue
                for loser in anchors:
                    gain = _gain(winner, loser)
                    if gain is not None:
                        anchor = context.cells[model, loser.key].records[0].id
                        yield Lesson(winner, loser, gain, anchor, spec)


def _gain(winner: ConfigResult, loser: ConfigResult) -> Estimate | None:
    """The advantage at about the same cost, when it is beyond doubt."""
    if winner.bits is None or loser.bits is None or abs(winner.bits - loser.bits) > SIMILAR:
        return None
    if winner.spec.rung != loser.spec.rung:
        return None
    gain = results.compare(winner, loser)
    return gain if gain is not None and gain.interval()[1] < 0 else None
