"""Finalists of an engine: the flags that lead, and the engine as it comes, measured again, as once may be luck."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.agents.analysis import engine_speed
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal, TrialRecord

AGAIN = 3
"""Measurements of the same flags beyond their first, the first of them with several clients too."""


class FinalistNode(GenerationNode):
    """Once more what is in doubt: the leading flags, the engine as it comes and the runner-up; then the whole front."""

    name = "finalist"

    def propose(self, context: ProposalContext) -> Proposal | None:
        """The first finalist that was not measured as often yet; None while nothing is feasible."""
        found = context.history.select(model=context.model, protocol=engine_speed.PROTOCOL)
        ranking = engine_speed.best(found, context.settings)
        # First what was measured the fewest times.
        wanted = max((_again(record, context) for record in _doubtful(ranking, found)), key=len, default=[])
        if wanted:
            why = "Measured again, as the quickest flags are not told apart yet from others or from the engine alone."
            return Proposal(spec=wanted[0], proposer=self.name, rationale=why)
        for record in engine_speed.front(found, context.settings):
            specs = _again(record, context)
            if len(specs) == AGAIN:
                why = f"Nothing beats trial {record.id}: again on other text, with several clients at once."
                return Proposal(spec=specs[0], proposer=self.name, rationale=why)
        return None


def _doubtful(ranking: Sequence[TrialRecord], found: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The leader, the engine as it comes and the runner-up, less those that the leader surely is quicker than.

    None where that leaves the leader alone.
    """
    rivals = [r for i, r in enumerate(ranking[1:]) if i == 0 or engine_speed.is_plain(r)]
    rivals = [r for r in rivals if not engine_speed.is_quicker(found, ranking[0].spec.label, r.spec.label)]
    return [*ranking[:1], *sorted(rivals, key=engine_speed.is_plain, reverse=True)] if rivals else []


def _again(record: TrialRecord, context: ProposalContext) -> list[TrialSpec]:
    """The further measurements of a trial's flags that nobody has proposed yet."""
    changes = ({"rung": int(k == 1), "replicate": k, "seed": k} for k in range(1, AGAIN + 1))
    return [spec for spec in (record.spec.model_copy(update=change) for change in changes) if context.is_new(spec)]
