"""Carries what did well on one model over to another, with a registered prediction of how well it will do there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate, bounded_exp
from swarm.agents.generation.context import CARRIED, ProposalContext
from swarm.agents.samplers.base import Sampler
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Prediction, Proposal

MAX_BITS_APART = 0.5
"""Bits per value by which two configurations may differ and still count as equally expensive."""


class Lesson(NamedTuple):
    """On another model `winner` beats `loser`, which has been measured here as trial `anchor`; `spec` tests it here."""

    winner: ConfigResult
    loser: ConfigResult
    gain: Estimate
    anchor: int
    spec: TrialSpec


class TransferSampler(Sampler):
    """The clearest gain on another model that has not been tried on this one."""

    name = "transfer"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """A configuration of another model's front; None when all of them are known here."""
        best = min(self._lessons(context), key=lambda lesson: lesson.gain.interval()[1], default=None)
        if best is None:
            return None
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
    def _lessons(context: ProposalContext) -> Iterator[Lesson]:
        for other in context.infos:
            if other == context.model:
                continue
            anchors = [
                (result, context.results[context.model, key].records[0].id)
                for (name, key), result in context.results.items()
                if name == other and (context.model, key) in context.results and result.spec.layers is None
            ]
            for winner in context.front(other):
                spec = context.new_trial(winner.spec.kv) if winner.spec.layers is None else None
                if spec is None:
                    continue
                for loser, anchor in anchors:
                    gain = _gain(winner, loser)
                    if gain is not None:
                        yield Lesson(winner, loser, gain, anchor, spec)


def _gain(winner: ConfigResult, loser: ConfigResult) -> Estimate | None:
    """The advantage at about the same cost, when it is beyond doubt."""
    if winner.bits is None or loser.bits is None or winner.spec.rung != loser.spec.rung:
        return None
    if abs(winner.bits - loser.bits) > MAX_BITS_APART:
        return None
    gain = results.compare(winner, loser)
    return gain if gain is not None and gain.interval()[1] < 0 else None
