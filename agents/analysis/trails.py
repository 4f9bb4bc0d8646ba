"""From a plateau to what it led to: the question that it raised, the trials that answered it, and what these show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from swarm.agents.analysis.judge import ranked
from swarm.agents.history import History
from swarm.memory.records import Finding, FindingRecord, TrialRecord

LEAST_SHARE = 1 / 3
"""Share of a finding's evidence that comes from a trail, at least, for the finding to be one of its."""


@dataclass(frozen=True)
class Trail:
    """A plateau, the question, the trials that it led to in their order, and the findings that rest on these.

    Findings are ranked: confirmed ones first, then the largest.
    """

    plateau: FindingRecord
    question: str
    trials: tuple[TrialRecord, ...]
    findings: tuple[FindingRecord, ...]


def trails(history: History) -> Iterator[Trail]:
    """The trail of every plateau that led to trials, in the order of the plateaus."""
    for plateau in history.findings:
        trials = tuple(r for r in history.records if plateau.finding.kind == "plateau" and plateau.id in r.parents)
        if trials:
            ids = {record.id for record in trials}
            resting = [record for record in history.findings if _rests_on(record.finding, ids)]
            yield Trail(plateau, trials[0].rationale, trials, tuple(ranked(resting)))


def _rests_on(finding: Finding, ids: set[int]) -> bool:
    evidence = set(finding.evidence)
    return finding.kind != "plateau" and len(evidence & ids) >= LEAST_SHARE * len(evidence) > 0
