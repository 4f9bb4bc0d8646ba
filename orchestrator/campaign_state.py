"""What a driver knows of its campaign: the trials by number, findings, summaries, and the history that proposals see.

The one copy in memory of what the store holds. It writes what came of trials and keeps the records as they are then
stored; what other drivers did is read from the store when it is asked to.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from swarm.agents.history import FINISHED, History, hide
from swarm.experiments.spec import Failure, Measurement
from swarm.memory.errors import LeaseLostError
from swarm.memory.records import FindingRecord, Lease, SummaryRecord, TrialRecord, TrialState, Verdict
from swarm.memory.result_writer import Ended
from swarm.orchestrator.pool import EVICTED, LOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from swarm.memory.store import Store
    from swarm.orchestrator.leases import HeldLeases
    from swarm.orchestrator.pool import Ending

RETRIES = {LOST: (3, "crash"), EVICTED: (1, "oom")}
"""How often a trial is run again that lost its worker for a reason outside it, and what it counts as after that."""


class CampaignView:
    """The trials 0 .. n-1 of a campaign as far as this driver knows.

    Args:
        store: where the campaign is.
        campaign_id: which campaign.
        leases: the trials that this driver holds.
    """

    def __init__(self, store: Store, campaign_id: int, leases: HeldLeases) -> None:
        self._store = store
        self._campaign_id = campaign_id
        self._leases = leases
        self._settled = 0
        self._retries: Counter[tuple[int, str]] = Counter()
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

    def put(self, record: TrialRecord) -> None:
        """Add the next trial, or replace what is known of one."""
        if record.number == len(self.records):
            self.records.append(record)
        else:
            self.records[record.number] = record

    def score(self, verdicts: Mapping[int, Verdict]) -> None:
        """Note verdicts on predictions by trial id."""
        for number, record in enumerate(self.records):
            if record.id in verdicts:
                self.records[number] = record.model_copy(update={"verdict": verdicts[record.id]})

    def history(self, number: int, lag: int) -> History:
        """What proposal `number` may know; see `History.before`."""
        horizon = max(0, number - lag)
        if self.settled < horizon:
            return History.before(number, self.records, lag, self.findings, self.summaries)
        # The usual case: all that the lag shows is finished, so it is copied and not looked at.
        records = (*self.records[:horizon], *map(hide, self.records[horizon:number]))
        return History(records, lag, tuple(self.findings), tuple(self.summaries))

    def refresh(self) -> list[TrialRecord]:
        """Read what other drivers did; the trials that turned out to be finished."""
        open_ids = [r.id for r in self.records[self.settled :] if r.state not in FINISHED and r.id not in self._leases]
        known = len(self.records)
        found = self._store.trials.list(self._campaign_id, ids=open_ids) if open_ids else []
        found += self._store.trials.list(self._campaign_id, after=known - 1)
        for record in found:
            self.put(record)
        self.read_findings()
        self.read_summaries()
        return [record for record in found if record.state in FINISHED]

    def read_findings(self) -> None:
        """Read the findings as they are stored now."""
        self.findings = self._store.findings.list(self._campaign_id)

    def read_summaries(self) -> None:
        """Read the summaries with their reviews as they are stored now."""
        self.summaries = self._store.summaries.list(self._campaign_id)

    def write(self, ended: Sequence[Ending]) -> list[TrialRecord]:
        """Write what came of trials, all measurements at once.

        Returns:
            The trials as they are now. One that waits is to be run once more if its lease is held. A trial that
            belongs to another driver by now is left out.
        """
        held = [(lease, end) for trial_id, end in ended if (lease := self._lease(trial_id)) is not None]
        measured = [Ended(lease, end) for lease, end in held if isinstance(end, Measurement)]
        late = {lease.trial_id for lease in self._store.trials.complete_all(measured)}
        written = []
        for lease, end in held:
            record = None if lease.trial_id in late else self._written(lease, end)
            if record is None:
                record = self._write_late(lease.trial_id, end)
            if record is not None:
                self.put(record)
                written.append(record)
        return written

    def _lease(self, trial_id: int) -> Lease | None:
        return self._leases.give(trial_id) or self._leases.claim(trial_id)

    def _write_late(self, trial_id: int, end: Measurement | Failure) -> TrialRecord | None:
        """Write what came of a trial whose lease ran out, unless somebody else took the trial."""
        lease = self._leases.claim(trial_id)
        if lease is None or (isinstance(end, Measurement) and self._store.trials.complete_all([Ended(lease, end)])):
            return None
        return self._written(lease, end)

    def _written(self, lease: Lease, end: Measurement | Failure) -> TrialRecord | None:
        """The record of a stored measurement, or of a failure that is stored here; None when the lease was lost."""
        record = self.records[lease.number]
        return _completed(record, end) if isinstance(end, Measurement) else self._fail(lease, record, end)

    def _fail(self, lease: Lease, record: TrialRecord, failure: Failure) -> TrialRecord | None:
        """Record a failure, or take the trial once more."""
        retries, kind = RETRIES.get(failure.kind, (0, failure.kind))
        self._retries[record.id, failure.kind] += 1
        state: TrialState = "waiting"
        if self._retries[record.id, failure.kind] <= retries:
            self._store.trials.release(lease)
        else:
            try:
                state = self._store.trials.fail(lease, kind, failure.message, seconds=failure.seconds)
            except LeaseLostError:
                return None
        if state == "waiting":
            self._leases.take(record.id)
        outcome = {"state": state, "outcome": kind, "message": failure.message, "seconds": failure.seconds}
        return record.model_copy(update=outcome)


def _completed(record: TrialRecord, measured: Measurement) -> TrialRecord:
    """The record as the store would read it back."""
    return record.model_copy(
        update={
            "state": "complete",
            "outcome": "ok",
            "metrics": {metric.name: metric for metric in measured.metrics},
            "arrays": measured.arrays,
            "environment": measured.environment,
            "notes": measured.notes,
            "seconds": measured.seconds["total"],
        }
    )
