"""Writing what came of a trial, and settling what was reserved for it, in one transaction.

Knows results, environments and failures; who may write them is decided in `leases`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, Double, Row, bindparam, insert, select, update

from swarm.experiments.spec import Environment, Measurement
from swarm.memory import front, ledger, text
from swarm.memory.claim_queue import (
    NO_LEASE,
    OWNED,
    Leases,
    lost,
    owned,
    refuse,
)
from swarm.memory.database import Database
from swarm.memory.dialects import portions, upsert
from swarm.memory.events import record
from swarm.memory.records import Lease, TrialState
from swarm.memory.tables import GROUP, arrays, environments, measurements, trials
from swarm.memory.types import Document, epoch_now, utc_now

MAX_CRASHES = 2
"""So many workers may a configuration kill before it is quarantined."""

_KNOWN = select(environments.c.id).where(environments.c.digest == bindparam("b_digest"))
_COMPLETE = (
    update(trials)
    .where(trials.c.id == bindparam("b_trial"))
    .values(
        state="complete",
        outcome="ok",
        message="",
        notes=bindparam("b_notes"),
        seconds=trials.c.seconds + bindparam("b_seconds", type_=Double),
        timings=bindparam("b_timings", type_=Document),
        environment_id=bindparam("b_environment"),
        kld=bindparam("b_kld"),
        bits_per_value=bindparam("b_bits"),
        finished_at=utc_now(),
        **NO_LEASE,
    )
)
_OURS = (
    select(*(trials.c[name] for name in ("id", "lease_token", "proposer", "logit_gain", *GROUP)))
    .where(
        trials.c.id.in_(bindparam("b_trials", expanding=True)),
        trials.c.state == "running",
        trials.c.lease_expires > epoch_now(),
    )
    .with_for_update()
)
_OWNED_ROW = select(trials.c.id, trials.c.proposer, trials.c.crashes, trials.c.seconds).where(*OWNED).with_for_update()

_INSERT_MEASUREMENTS = insert(measurements)
_INSERT_ARRAYS = insert(arrays)


class Ended(NamedTuple):
    """A result to be written; see `Results.complete` for the fields."""

    lease: Lease
    measurement: Measurement
    seconds: float | None = None
    spent: Mapping[str, float] = MappingProxyType({})


class Results(Leases):
    """The result-writing part of `store.trials`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._environments: dict[tuple[int, str], int] = {}

    def complete(
        self,
        lease: Lease,
        measurement: Measurement,
        *,
        seconds: float | None = None,
        spent: Mapping[str, float] | None = None,
    ) -> None:
        """Write the result of a trial and settle all that was reserved for it, in one transaction.

        Args:
            lease: from `claim`.
            measurement: the result.
            seconds: wall time on the worker; left out, the measurement's `total` or the sum of its stages.
            spent: what was spent by budget kind, where it is not the one trial and the worker's seconds.

        Raises:
            LeaseLostError: the lease had expired or was taken over: nothing is written but an event. When nobody
                took the trial, `claim` gets a new lease, under which the same result can be written.
        """
        if self.complete_all([Ended(lease, measurement, seconds, spent or {})]):
            raise lost(lease)

    def complete_all(self, results: Sequence[Ended]) -> list[Lease]:
        """Write the results of many trials in one transaction: several times as many per second as one by one.

        Returns:
            The leases that had expired or were taken over: of these trials nothing is written but an event.
        """
        refused = []
        known = {id(end): self._environment(end.measurement.environment) for end in results}
        with self._database.write() as connection:
            for campaign_id in sorted({end.lease.campaign_id for end in results}):
                ledger.lock(connection, campaign_id)
            ours = _ours(connection, [end.lease.trial_id for end in results])
            kept = []
            for end in results:
                row = ours.pop(end.lease.trial_id, None)  # a second result under the same lease comes too late
                if row is not None and row.lease_token == end.lease.token:
                    kept.append((row, end))
                else:
                    refuse(connection, end.lease, "result")
                    refused.append(end.lease)
            if kept:
                connection.execute(_COMPLETE, [_completed(end, known[id(end)]) for _, end in kept])
                _insert_results(connection, [end for _, end in kept])
                front.enter(connection, [(row, *point) for row, end in kept if (point := _point(row, end))])
                ledger.settle_trials(connection, [_cost(row, end) for row, end in kept])
        return refused

    def fail(
        self,
        lease: Lease,
        outcome: str,
        message: str = "",
        *,
        seconds: float = 0.0,
        spent: Mapping[str, float] | None = None,
    ) -> TrialState:
        """Record that a trial ended without a measurement.

        The first `crash` (the worker died) gives the trial back to be tried once more; the second one quarantines
        it with the cause. `pruned` ends it as pruned, every other outcome as failed.

        Returns:
            The state that the trial has now; `waiting` means that it is to be claimed again.

        Raises:
            LeaseLostError: as for `complete`.
        """
        note = text.clean(message)
        with self._database.write() as connection:
            ledger.lock(connection, lease.campaign_id)
            row = connection.execute(_OWNED_ROW, owned(lease)).one_or_none()
            if row is None:
                refuse(connection, lease, outcome)
            else:
                state = _state_after(outcome, row.crashes)
                self._fail(connection, lease, row, state, outcome, note, round(seconds, 6), spent or {})
        if row is None:
            raise lost(lease)
        return state

    def _fail(
        self,
        connection: Connection,
        lease: Lease,
        row: Row[Any, Any, Any, Any],
        state: TrialState,
        outcome: str,
        message: str,
        seconds: float,
        spent: Mapping[str, float],
    ) -> None:
        again = state == "waiting"
        values = {"state": state, "outcome": text.name(outcome, 32), "message": message, **NO_LEASE}
        values |= {"seconds": row.seconds + seconds, "crashes": row.crashes + (outcome == "crash")}
        finished = {} if again else {"finished_at": utc_now()}
        connection.execute(update(trials).where(trials.c.id == row.id).values(**values, **finished))
        costs = {"worker_seconds": seconds, **spent} | ({} if again else {"trials": 1.0})
        keep = ("trials",) if again else ()
        ledger.settle_trials(connection, [ledger.Cost(lease.campaign_id, row.id, row.proposer, costs, keep)])
        data = {"owner": lease.owner, "state": state}
        event = f"trial.{state}" if state == "quarantined" else f"trial.{values['outcome']}"
        record(connection, event, message, campaign_id=lease.campaign_id, trial_id=row.id, data=data)

    def _environment(self, environment: Environment) -> int:
        """The row of an environment; made in a transaction of its own, as it is nobody's result."""
        digest = hashlib.sha256(environment.model_dump_json().encode()).hexdigest()
        known = self._environments.get((self._database.losses, digest))
        if known is None:
            row = {"digest": digest, "data": text.document(environment.model_dump(mode="json"))}
            with self._database.write() as connection:
                known = connection.execute(_KNOWN, {"b_digest": digest}).scalar_one_or_none()
                if known is None:
                    connection.execute(upsert(connection, environments).values(row).on_conflict_do_nothing())
                    known = int(connection.execute(_KNOWN, {"b_digest": digest}).scalar_one())
            self._environments[self._database.losses, digest] = known
        return known


def _took(end: Ended) -> float:
    """Seconds of the worker, in whole millionths as the ledger counts them."""
    measured = end.measurement.seconds
    return round(measured.get("total", sum(measured.values())) if end.seconds is None else end.seconds, 6)


def _state_after(outcome: str, crashes: int) -> TrialState:
    if outcome == "pruned":
        return "pruned"
    if outcome == "crash":
        return "quarantined" if crashes + 1 >= MAX_CRASHES else "waiting"
    return "failed"


def _ours(connection: Connection, ids: Sequence[int]) -> dict[int, Row[Any]]:
    """The trials among these that run under a lease which is good, whoever has it."""
    found: dict[int, Row[Any]] = {}
    for portion in portions(ids):
        found.update((row.id, row) for row in connection.execute(_OURS, {"b_trials": portion}))
    return found


def _completed(end: Ended, environment: int) -> dict[str, Any]:
    """The parameters of `_COMPLETE`."""
    measured = end.measurement
    values = {metric.name: metric.value for metric in measured.metrics}
    return {
        "b_trial": end.lease.trial_id,
        "b_notes": text.clean(measured.notes),
        "b_seconds": _took(end),
        "b_timings": text.document(measured.seconds),
        "b_environment": environment,
        "b_kld": values.get("kld"),
        "b_bits": values.get("bits_per_value"),
    }


def _point(row: Row[Any], end: Ended) -> tuple[float, float] | None:
    """Bits and KLD of a trial that may stand on a front; interventions on the logits may not."""
    values = {metric.name: metric.value for metric in end.measurement.metrics}
    if row.logit_gain != 1.0 or "kld" not in values or "bits_per_value" not in values:
        return None
    return values["bits_per_value"], values["kld"]


def _cost(row: Row[Any], end: Ended) -> ledger.Cost:
    costs = {"trials": 1.0, ledger.WORKER: _took(end), **end.spent}
    return ledger.Cost(row.campaign_id, row.id, row.proposer, costs)


def _insert_results(connection: Connection, results: Sequence[Ended]) -> None:
    rows = [
        {
            "trial_id": end.lease.trial_id,
            "metric": text.name(metric.name, 64),
            "value": metric.value,
            "unit": text.name(metric.unit, 32),
            "n": metric.n,
            "stderr": metric.stderr,
        }
        for end in results
        for metric in end.measurement.metrics
    ]
    if rows:
        connection.execute(_INSERT_MEASUREMENTS, rows)
    series = [
        {
            "trial_id": end.lease.trial_id,
            "name": text.name(name, 64),
            "series": [x if math.isfinite(x) else None for x in values],
        }
        for end in results
        for name, values in end.measurement.arrays.items()
    ]
    if series:
        connection.execute(_INSERT_ARRAYS, series)
