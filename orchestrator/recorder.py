"""Writes the ends of trials under their leases. Knows claims and outcomes; knows no loop and no agents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.kernels.errors import LeaseLostError
from swarm.memory.records import Lease, TrialRecord, TrialState
from swarm.memory.result_writer import Ended
from swarm.orchestrator.pool import EVICTED, LOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.experiments.spec import Measurement
    from swarm.memory.store import Store
    from swarm.orchestrator.campaign_state import Roster
    from swarm.orchestrator.leases import Leases
    from swarm.orchestrator.pool import Result
    from swarm.orchestrator.worker import Outcome


RETRIES = {LOST: (3, "crash"), EVICTED: (1, "oom")}
"""How often a trial is run again that lost its worker for a reason outside it, and what it counts as after that."""


@dataclass(frozen=True)
class End:
    """What became of a trial; with a `lease` it is to be run once more."""

    record: TrialRecord
    lease: Lease | None = None


class Recorder:
    """Turns results of the pool into stored ends of trials."""

    def __init__(self, store: Store, roster: Roster, leases: Leases, owner: str) -> None:
        self._store = store
        self._roster = roster
        self._leases = leases
        self._owner = owner
        self._strikes: Counter[tuple[int, str]] = Counter()

    def claim(self, trial_id: int) -> Lease | None:
        """Take a trial; None when somebody else has it."""
        return self._store.trials.claim(trial_id, self._owner, self._leases.ttl)

    def end(self, results: Sequence[Result]) -> list[End]:
        """Write results, all measurements at once; a trial that belongs to somebody else by now has no end here."""
        held = [(lease, result) for result in results if (lease := self._lease(result.key)) is not None]
        measured = {
            lease.trial_id: Ended(lease, result.outcome.measurement, result.outcome.seconds)
            for lease, result in held
            if result.outcome.measurement is not None
        }
        late = {lease.trial_id for lease in self._store.trials.complete_all(list(measured.values()))}
        ends = []
        for lease, result in held:
            if lease.trial_id in late:
                end = self._write_late(result)
            elif lease.trial_id in measured:
                end = self._done(lease, measured[lease.trial_id])
            else:
                end = self._fail(lease, result.outcome) or self._write_late(result)
            ends += [] if end is None else [end]
        return ends

    def _lease(self, trial_id: int) -> Lease | None:
        return self._leases.give(trial_id) or self.claim(trial_id)

    def _write_late(self, result: Result) -> End | None:
        """Write a result whose lease ran out, unless somebody else took the trial."""
        lease = self.claim(result.key)
        if lease is None:
            return None
        if result.outcome.measurement is None:
            return self._fail(lease, result.outcome)
        ended = Ended(lease, result.outcome.measurement, result.outcome.seconds)
        return None if self._store.trials.complete_all([ended]) else self._done(lease, ended)

    def _done(self, lease: Lease, ended: Ended) -> End:
        return End(_completed(self._roster.records[lease.number], ended.measurement, ended.seconds or 0.0))

    def _fail(self, lease: Lease, outcome: Outcome) -> End | None:
        """Record a failure, or give the trial back to be run again; None when the lease was lost."""
        record = self._roster.records[lease.number]
        retries, kind = RETRIES.get(outcome.kind, (0, outcome.kind))
        self._strikes[record.id, outcome.kind] += 1
        if self._strikes[record.id, outcome.kind] <= retries:
            self._store.trials.release(lease)
            state: TrialState = "waiting"
        else:
            try:
                state = self._store.trials.fail(lease, kind, outcome.message, seconds=outcome.seconds)
            except LeaseLostError:
                return None
        update = {"state": state, "outcome": kind, "message": outcome.message, "seconds": outcome.seconds}
        failed = record.model_copy(update=update)
        return End(failed, self.claim(record.id) if state == "waiting" else None)


def _completed(record: TrialRecord, measured: Measurement, seconds: float) -> TrialRecord:
    """The record as the store would read it back."""
    return record.model_copy(
        update={
            "state": "complete",
            "outcome": "ok",
            "metrics": {metric.name: metric for metric in measured.metrics},
            "arrays": measured.arrays,
            "environment": measured.environment,
            "notes": measured.notes,
            "seconds": seconds,
        }
    )
