"""A driver's picture of its campaign: trials by number, findings, summaries, and the history that proposals see.

Knows how to bring itself up to date from the store; decides nothing.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from swarm.agents.history import FINISHED, History, hide
from swarm.memory.records import FindingRecord, SummaryRecord, TrialRecord, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.memory.store import Store


class Roster:
    """The trials 0 .. n-1 of a campaign as far as this driver knows.

    Args:
        store: where the campaign is.
        campaign_id: which campaign.
    """

    def __init__(self, store: Store, campaign_id: int) -> None:
        self._store = store
        self._campaign_id = campaign_id
        self._settled = 0
        self.records: list[TrialRecord] = []
        self.findings: list[FindingRecord] = []
        self.summaries: list[SummaryRecord] = []

    def __len__(self) -> int:
        return len(self.records)

    @property
    def settled(self) -> int:
        """So many trials from the first one on are finished without a gap."""
        while self._settled < len(self.records) and self.records[self._settled].state in FINISHED:
            self._settled += 1
        return self._settled

    def unfinished(self) -> list[TrialRecord]:
        """Trials that wait or run, here or elsewhere."""
        return [record for record in self.records[self.settled :] if record.state not in FINISHED]

    def put(self, record: TrialRecord) -> None:
        """Add the next trial, or replace what is known of one."""
        if record.number == len(self.records):
            self.records.append(record)
        else:
            self.records[record.number] = record

    def score(self, verdicts: Mapping[int, Verdict]) -> None:
        """Note verdicts on predictions by trial id."""
        for place, record in enumerate(self.records):
            if record.id in verdicts:
                self.records[place] = record.model_copy(update={"verdict": verdicts[record.id]})

    def history(self, number: int, lag: int) -> History:
        """What proposal `number` may know; see `History.before`."""
        horizon = max(0, number - lag)
        if self.settled < horizon:
            return History.before(number, self.records, lag, self.findings, self.summaries)
        # The usual case: all that the lag shows is finished, so it is copied and not looked at.
        records = (*self.records[:horizon], *map(hide, self.records[horizon:number]))
        return History(records, lag, tuple(self.findings), tuple(self.summaries))

    def refresh(self, mine: Container[object]) -> list[TrialRecord]:
        """Read what other drivers did; `mine` are ids of trials that only this driver can finish.

        Returns:
            The trials that turned out to be finished.
        """
        known = len(self.records)
        stale = [record.id for record in self.unfinished() if record.id not in mine]
        news = self._store.trials.list(self._campaign_id, ids=stale) if stale else []
        news += self._store.trials.list(self._campaign_id, after=known - 1)
        for record in news:
            self.put(record)
        self.read_findings()
        self.read_summaries()
        return [record for record in news if record.state in FINISHED]

    def read_findings(self) -> None:
        """Read the findings as they are stored now."""
        self.findings = self._store.findings.list(self._campaign_id)

    def read_summaries(self) -> None:
        """Read the summaries with their reviews as they are stored now."""
        self.summaries = self._store.summaries.list(self._campaign_id)
