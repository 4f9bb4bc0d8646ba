"""What a driver knows of its campaign: the trials by number, findings, summaries, and the history that proposals see.

The one copy in memory of what the store holds. It writes what came of trials and keeps the records as they are then
stored; what other drivers did is read from the store when it is asked to.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from swarm.agents.history import FINISHED, History, hide
from swarm.experiments.spec import Failure
from swarm.memory.records import FindingRecord, SummaryRecord, TrialRecord, Verdict
from swarm.orchestrator.worker_handle import EVICTED, LOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from swarm.memory.result_writer import Done
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
        self.findings: dict[int, FindingRecord] = {}
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
            return History.before(number, self.records, lag, self.findings.values(), self.summaries)
        # The usual case: all that the lag shows is finished, so it is copied and not looked at.
        records = (*self.records[:horizon], *map(hide, self.records[horizon:number]))
        return History(records, lag, tuple(self.findings.values()), tuple(self.summaries))

    def refresh(self) -> list[TrialRecord]:
        """Read what other drivers did; the trials that turned out to be finished."""
        open_ids = [r.id for r in self.records[self.settled :] if r.state not in FINISHED and r.id not in self._leases]
        known = len(self.records)
        found = self._store.trials.list(self._campaign_id, ids=open_ids) if open_ids else []
        found += self._store.trials.list(self._campaign_id, after=known - 1)
        for record in found:
            self.put(record)
        self.findings = {record.id: record for record in self._store.findings.list(self._campaign_id)}
        self.summaries = self._store.summaries.list(self._campaign_id)
        return [record for record in found if record.state in FINISHED]

    def write(self, ended: Sequence[Ending]) -> list[TrialRecord]:
        """Write what came of trials, all at once.

        Returns:
            The trials as they are now. One that waits is to be run once more if its lease is held. A trial that
            belongs to another driver by now is left out.
        """
        done: list[Done] = []
        written: dict[int, TrialRecord] = {}
        for trial_id, end in ended:
            lease = self._leases.give(trial_id) or self._leases.claim(trial_id)
            if lease is None:
                continue
            record = self.records[lease.number]
            if isinstance(end, Failure):
                retries, kind = RETRIES.get(end.kind, (0, end.kind))
                self._retries[trial_id, end.kind] += 1
                if self._retries[trial_id, end.kind] <= retries:
                    self._store.queue.release(lease)
                    outcome = {"state": "waiting", "outcome": kind, "message": end.message, "seconds": end.seconds}
                    written[trial_id] = record.model_copy(update=outcome)
                else:
                    done.append((lease, record, end.model_copy(update={"kind": kind})))
            else:
                done.append((lease, record, end))
        written |= {record.id: record for record in self._record(done)}
        found = [written[trial_id] for trial_id, _ in ended if trial_id in written]
        for record in found:
            self.put(record)
            if record.state == "waiting":
                self._leases.take(record.id)
        return found

    def _record(self, done: Sequence[Done]) -> Iterator[TrialRecord]:
        """Write results; those whose lease ran out once more, unless somebody else took the trial."""
        late: list[Done] = []
        for (_, record, end), now in zip(done, self._store.record(done) if done else (), strict=True):
            if now is not None:
                yield now
            elif (lease := self._leases.claim(record.id)) is not None:
                late.append((lease, record, end))
        yield from filter(None, self._store.record(late) if late else ())
