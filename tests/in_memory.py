"""Campaigns in this process, trial by trial, without store and Ray: one loop for laboratories and for real trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.experiments.identity import fingerprint
from swarm.memory.records import Finding, FindingRecord, Proposal, TrialRecord


def proposed(number: int, proposal: Proposal) -> TrialRecord:
    """The trial of a proposal, before it is run."""
    return TrialRecord(
        id=number + 1,
        number=number,
        campaign_id=1,
        fingerprint=fingerprint(proposal.spec),
        spec=proposal.spec,
        arm=proposal.arm,
        proposer=proposal.proposer,
        rationale=proposal.rationale,
        prediction=proposal.prediction,
        parents=proposal.parents,
        verdict="open" if proposal.prediction else None,
    )


def stored(findings: Sequence[Finding], known: Sequence[FindingRecord]) -> list[FindingRecord]:
    """Findings as a store keeps them: one row per key, in order of first appearance."""
    rows = {record.finding.key: record for record in known}
    for finding in findings:
        old = rows.get(finding.key)
        identity = old.id if old else len(rows) + 1
        rows[finding.key] = FindingRecord(id=identity, campaign_id=1, finding=finding)
    return list(rows.values())


@dataclass
class Run:
    """A finished campaign."""

    strategy: GenerationStrategy
    records: list[TrialRecord]
    findings: list[FindingRecord]

    @property
    def history(self) -> History:
        """All of its trials and findings."""
        return History.before(len(self.records), self.records, 0, self.findings)

    def keys(self, prefix: str, status: str | None = None) -> list[str]:
        """Keys of findings that begin so, of any status or of one."""
        found = [f.finding for f in self.findings if f.finding.key.startswith(prefix)]
        return [f.key for f in found if status in (None, f.status)]


def campaign(strategy: GenerationStrategy, budget: int, lag: int, run: Callable[[int, Proposal], TrialRecord]) -> Run:
    """What a driver does: propose under a lag, run, and analyse at milestones and at the end."""
    records: list[TrialRecord] = []
    findings: list[FindingRecord] = []
    for number in range(budget):
        history = History.before(number, records, lag, findings)
        if strategy.engine.is_milestone(number)[0]:
            findings = stored(strategy.engine.analyse(number, history), findings)
            history = History.before(number, records, lag, findings)
        records.append(run(number, strategy.propose(number, history)))
    done = History.before(budget, records, 0, findings)
    return Run(strategy, records, stored(strategy.engine.analyse(budget, done), findings))
