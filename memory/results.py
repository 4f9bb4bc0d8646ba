"""Writing what came of a trial, and settling what was reserved for it, in one transaction.

Knows results, environments and failures; who may write them is decided in `leases`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from swarm.experiments.spec import Environment, Measurement
from swarm.memory import front, ledger, text
from swarm.memory.database import Database
from swarm.memory.dialects import upsert
from swarm.memory.events import record
from swarm.memory.leases import NO_LEASE, Leases, lost, owned, refuse
from swarm.memory.records import Lease, TrialState
from swarm.memory.tables import arrays, environments, measurements, trials
from swarm.memory.types import utc_now

MAX_CRASHES = 2
"""So many workers may a configuration kill before it is quarantined."""


class Results(Leases):
    """The result-writing part of `store.trials`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._environments: dict[str, int] = {}

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
        took = _seconds(measurement) if seconds is None else seconds
        values = {metric.name: metric.value for metric in measurement.metrics}
        environment_id = self._environment(measurement.environment)
        with self._database.write() as connection:
            ledger.lock(connection, lease.campaign_id)
            row = self._finish(
                connection,
                lease,
                "complete",
                outcome="ok",
                message="",
                seconds=trials.c.seconds + took,
                notes=text.clean(measurement.notes),
                timings=text.document(measurement.seconds),
                environment_id=environment_id,
                kld=values.get("kld"),
                bits_per_value=values.get("bits_per_value"),
            )
            if row is not None:
                _insert_results(connection, lease.trial_id, measurement)
                if "kld" in values and "bits_per_value" in values and row.logit_gain == 1.0:
                    front.enter(connection, row, values["bits_per_value"], values["kld"])
                costs = {"trials": 1.0, "worker_seconds": took, **(spent or {})}
                ledger.settle_trial(connection, lease.campaign_id, lease.trial_id, row.proposer, costs)
        if row is None:
            raise lost(lease)

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
            row = connection.execute(select(trials).where(*owned(lease)).with_for_update()).one_or_none()
            if row is None:
                refuse(connection, lease, outcome)
            else:
                state = _state_after(outcome, row.crashes)
                self._fail(connection, lease, row, state, outcome, note, seconds, spent or {})
        if row is None:
            raise lost(lease)
        return state

    def _finish(self, connection: Connection, lease: Lease, state: TrialState, **values: Any) -> Row[Any] | None:
        statement = update(trials).where(*owned(lease)).values(state=state, finished_at=utc_now(), **NO_LEASE, **values)
        wanted = (trials.c[name] for name in ("id", "proposer", "logit_gain", *front.GROUP))
        row = connection.execute(statement.returning(*wanted)).one_or_none()
        if row is None:
            refuse(connection, lease, state)
        return row

    def _fail(
        self,
        connection: Connection,
        lease: Lease,
        row: Row[Any],
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
        ledger.settle_trial(connection, lease.campaign_id, row.id, row.proposer, costs, keep=keep)
        data = {"owner": lease.owner, "state": state}
        event = f"trial.{state}" if state == "quarantined" else f"trial.{values['outcome']}"
        record(connection, event, message, campaign_id=lease.campaign_id, trial_id=row.id, data=data)

    def _environment(self, environment: Environment) -> int:
        """The row of an environment; made in a transaction of its own, as it is nobody's result."""
        digest = hashlib.sha256(environment.model_dump_json().encode()).hexdigest()
        if digest in self._environments:
            return self._environments[digest]
        query = select(environments.c.id).where(environments.c.digest == digest)
        with self._database.read() as connection:
            known = connection.execute(query).scalar_one_or_none()
        if known is None:
            row = {"digest": digest, "data": text.document(environment.model_dump(mode="json"))}
            with self._database.write() as connection:
                connection.execute(upsert(connection, environments).values(row).on_conflict_do_nothing())
                known = int(connection.execute(query).scalar_one())
        if not self._database.in_batch:  # a batch may still be taken back
            self._environments[digest] = known
        return known


def _seconds(measurement: Measurement) -> float:
    return measurement.seconds.get("total", sum(measurement.seconds.values()))


def _state_after(outcome: str, crashes: int) -> TrialState:
    if outcome == "pruned":
        return "pruned"
    if outcome == "crash":
        return "quarantined" if crashes + 1 >= MAX_CRASHES else "waiting"
    return "failed"


def _insert_results(connection: Connection, trial_id: int, measurement: Measurement) -> None:
    rows = [{"trial_id": trial_id, **metric.model_dump()} for metric in measurement.metrics]
    for row in rows:
        row["metric"] = row.pop("name")
    if rows:
        connection.execute(insert(measurements), rows)
    series = [
        {"trial_id": trial_id, "name": name, "series": text.document(values)}
        for name, values in measurement.arrays.items()
    ]
    if series:
        connection.execute(insert(arrays), series)
