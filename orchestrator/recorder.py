"""Writes the ends of trials under their leases. Knows claims and outcomes; knows no loop and no agents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.kernels.errors import LeaseLostError
from swarm.memory.records import Lease, TrialRecord, TrialState
from swarm.orchestrator.pool import EVICTED, LOST

if TYPE_CHECKING:
    from swarm.experiments.spec import Measurement
    from swarm.memory.store import Store
    from swarm.orchestrator.leases import Leases
    from swarm.orchestrator.pool import Result
    from swarm.orchestrator.roster import Roster


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

    def end(self, result: Result) -> End | None:
        """Write one result; None when the trial belongs to somebody else by now."""
        lease = self._leases.give(result.key) or self.claim(result.key)
        if lease is None:
            return None
        try:
            return self._write(lease, result)
        except LeaseLostError:
            again = self.claim(result.key)
            return None if again is None else self._write(again, result)

    def _write(self, lease: Lease, result: Result) -> End:
        record, outcome = self._roster.records[lease.number], result.outcome
        if outcome.measurement is not None:
            self._store.trials.complete(lease, outcome.measurement, seconds=outcome.seconds)
            return End(_completed(record, outcome.measurement, outcome.seconds))
        retries, kind = RETRIES.get(outcome.kind, (0, outcome.kind))
        self._strikes[record.id, outcome.kind] += 1
        if self._strikes[record.id, outcome.kind] <= retries:
            self._store.trials.release(lease)
            state: TrialState = "waiting"
        else:
            state = self._store.trials.fail(lease, kind, outcome.message, seconds=outcome.seconds)
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
