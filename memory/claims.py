"""Who may write a trial's result: claims with fenced leases on the database's clock, and the writing itself.

Knows the life of a trial from claim to result; knows nothing of how trials are proposed or read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select, update

from swarm.experiments.spec import Environment, Measurement
from swarm.kernels.errors import LeaseLostError, UsageError
from swarm.memory import front, ledger, text
from swarm.memory.database import Database
from swarm.memory.dialects import upsert
from swarm.memory.events import record
from swarm.memory.records import Lease, TrialState
from swarm.memory.tables import arrays, environments, measurements, trials
from swarm.memory.types import epoch_now, utc_now

MAX_CRASHES = 2
"""So many workers may a configuration kill before it is quarantined."""

_NO_LEASE: dict[str, None] = {"lease_owner": None, "lease_at": None, "lease_expires": None}


def expired(at: ColumnElement[float], expires: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a lease has run out.

    Also when it ends further ahead than it ever could: then the clock was set back, and its owner, were it alive,
    would have renewed it by the new clock. Taking it is safe either way: the token fences the old owner off.
    """
    now = epoch_now()
    return or_(expires <= now, expires - now > 2 * (expires - at))


class Claims:
    """The claiming half of `store.trials`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._environments: dict[str, int] = {}

    def claim(
        self, trial_id: int, owner: str, ttl: float = 120.0, hold: Mapping[str, float] | None = None
    ) -> Lease | None:
        """Take a trial that waits, or whose lease has expired; None when it is taken or finished.

        Args:
            trial_id: the trial.
            owner: who takes it, for people to read.
            ttl: seconds until the lease expires unless `heartbeat` renews it.
            hold: amounts by budget kind to reserve for it, settled with the result. What an expired lease had
                reserved is carried over instead.

        Raises:
            BudgetError: `hold` is more than the budget has left; the trial stays free.
        """
        _check_ttl(ttl)
        claimable = select(trials.c.campaign_id).where(trials.c.id == trial_id, _claimable())
        with self._database.read() as connection:  # cheap: most refusals need no write lock
            campaign_id = connection.execute(claimable).scalar_one_or_none()
        if campaign_id is None:
            return None
        with self._database.write() as connection:
            self._lock(connection, campaign_id, hold)
            return self._take(
                connection, claimable.with_only_columns(trials.c.id).with_for_update(), owner, ttl, hold or {}
            )

    def claim_next(
        self, campaign_id: int, owner: str, ttl: float = 120.0, hold: Mapping[str, float] | None = None
    ) -> Lease | None:
        """Take the earliest trial of a campaign that waits or whose lease has expired; None when there is none."""
        _check_ttl(ttl)
        in_campaign = trials.c.campaign_id == campaign_id
        waiting = select(trials.c.id).where(in_campaign, trials.c.state == "waiting")
        lost = select(trials.c.id).where(
            in_campaign, trials.c.state == "running", expired(trials.c.lease_at, trials.c.lease_expires)
        )
        with self._database.read() as connection:
            if not any(connection.execute(query.limit(1)).first() for query in (lost, waiting)):
                return None
        with self._database.write() as connection:
            self._lock(connection, campaign_id, hold)
            for query in (lost, waiting):
                first = query.order_by(trials.c.number).limit(1).with_for_update(skip_locked=True)
                lease = self._take(connection, first, owner, ttl, hold or {})
                if lease is not None:
                    return lease
        return None

    def heartbeat(self, lease: Lease) -> Lease:
        """Renew a lease by its ttl.

        Raises:
            LeaseLostError: it had expired or was taken over. When nobody took it, `claim` gets a new one.
        """
        now = epoch_now()
        with self._database.write() as connection:
            self._lock(connection, lease.campaign_id)
            statement = update(trials).where(*_owned(lease)).values(lease_at=now, lease_expires=now + lease.ttl)
            row = connection.execute(statement.returning(trials.c.lease_expires)).one_or_none()
            if row is None:
                self._refuse(connection, lease, "heartbeat")
        if row is None:
            raise _lost(lease)
        return lease.model_copy(update={"expires": row.lease_expires})

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
            raise _lost(lease)

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
            row = connection.execute(select(trials).where(*_owned(lease)).with_for_update()).one_or_none()
            if row is None:
                self._refuse(connection, lease, outcome)
            else:
                state = _state_after(outcome, row.crashes)
                self._fail(connection, lease, row, state, outcome, note, seconds, spent or {})
        if row is None:
            raise _lost(lease)
        return state

    def release(self, lease: Lease) -> None:
        """Give a claimed trial back untouched, e.g. when the campaign is interrupted; a lost lease is no error."""
        with self._database.write() as connection:
            self._lock(connection, lease.campaign_id)
            connection.execute(update(trials).where(*_owned(lease)).values(state="waiting", **_NO_LEASE))

    def release_expired(self, campaign_id: int | None = None) -> list[int]:
        """Put trials whose lease has expired back to waiting; returns their ids. Their reservations stay held."""
        query = select(trials.c.id, trials.c.campaign_id, trials.c.lease_owner).where(
            trials.c.state == "running", expired(trials.c.lease_at, trials.c.lease_expires)
        )
        if campaign_id is not None:
            query = query.where(trials.c.campaign_id == campaign_id)
        with self._database.read() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []
        with self._database.write() as connection:
            rows = connection.execute(query.order_by(trials.c.number).with_for_update(skip_locked=True)).all()
            for row in rows:
                # The token grows here already, so that a late write of the old owner finds a new one.
                freed = {"state": "waiting", "lease_token": trials.c.lease_token + 1, **_NO_LEASE}
                connection.execute(update(trials).where(trials.c.id == row.id).values(freed))
                message = f"the lease of {row.lease_owner} expired"
                record(connection, "lease.expired", message, campaign_id=row.campaign_id, trial_id=row.id)
        return [row.id for row in rows]

    def _take(
        self, connection: Connection, query: Any, owner: str, ttl: float, hold: Mapping[str, float]
    ) -> Lease | None:
        trial_id = connection.execute(query).scalar_one_or_none()
        if trial_id is None:
            return None
        before = connection.execute(select(trials).where(trials.c.id == trial_id)).one()
        now = epoch_now()
        taken = {
            "state": "running",
            "lease_owner": text.name(owner),
            "lease_token": trials.c.lease_token + 1,
            "lease_at": now,
            "lease_expires": now + ttl,
            "attempts": trials.c.attempts + 1,
            "started_at": utc_now(),
        }
        statement = update(trials).where(trials.c.id == trial_id).values(taken)
        row = connection.execute(statement.returning(trials.c.lease_token, trials.c.lease_expires)).one()
        if before.state == "running":
            message = f"{owner} took over from {before.lease_owner}, whose lease had expired"
            record(connection, "lease.taken_over", message, campaign_id=before.campaign_id, trial_id=trial_id)
        if hold:
            ledger.carry_or_hold(connection, before.campaign_id, trial_id, before.proposer, hold)
        return Lease(
            trial_id=trial_id,
            campaign_id=before.campaign_id,
            number=before.number,
            owner=text.name(owner),
            token=row.lease_token,
            ttl=ttl,
            expires=row.lease_expires,
        )

    def _finish(self, connection: Connection, lease: Lease, state: TrialState, **values: Any) -> Row[Any] | None:
        statement = (
            update(trials).where(*_owned(lease)).values(state=state, finished_at=utc_now(), **_NO_LEASE, **values)
        )
        wanted = (trials.c[name] for name in ("id", "proposer", "logit_gain", *front.GROUP))
        row = connection.execute(statement.returning(*wanted)).one_or_none()
        if row is None:
            self._refuse(connection, lease, state)
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
        values = {"state": state, "outcome": text.name(outcome, 32), "message": message, **_NO_LEASE}
        values |= {"seconds": row.seconds + seconds, "crashes": row.crashes + (outcome == "crash")}
        finished = {} if again else {"finished_at": utc_now()}
        connection.execute(update(trials).where(trials.c.id == row.id).values(**values, **finished))
        costs = {"worker_seconds": seconds, **spent} | ({} if again else {"trials": 1.0})
        keep = ("trials",) if again else ()
        ledger.settle_trial(connection, lease.campaign_id, row.id, row.proposer, costs, keep=keep)
        data = {"owner": lease.owner, "state": state}
        event = f"trial.{state}" if state == "quarantined" else f"trial.{values['outcome']}"
        record(connection, event, message, campaign_id=lease.campaign_id, trial_id=row.id, data=data)

    def _refuse(self, connection: Connection, lease: Lease, what: str) -> None:
        row = connection.execute(select(trials).where(trials.c.id == lease.trial_id)).one_or_none()
        data: dict[str, Any] = {"token": lease.token}
        if row is not None:
            data |= {"newest": row.lease_token, "state": row.state, "owner": row.lease_owner}
        record(
            connection,
            "lease.refused",
            f"a late {what} of {lease.owner} was refused",
            campaign_id=None if row is None else row.campaign_id,
            trial_id=None if row is None else row.id,
            data=data,
        )

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

    def _lock(self, connection: Connection, campaign_id: int, hold: Mapping[str, float] | None = None) -> None:
        # Whoever takes more than one row's lock takes the campaign's first (see `ledger.lock`).
        if hold or self._database.in_batch:
            ledger.lock(connection, campaign_id)


def _claimable() -> ColumnElement[bool]:
    lost = and_(trials.c.state == "running", expired(trials.c.lease_at, trials.c.lease_expires))
    return or_(trials.c.state == "waiting", lost)


def _owned(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        trials.c.id == lease.trial_id,
        trials.c.lease_token == lease.token,
        trials.c.state == "running",
        trials.c.lease_expires > epoch_now(),
    )


def _check_ttl(ttl: float) -> None:
    if not 0 < ttl <= 7 * 86400:
        raise UsageError(f"a lease of {ttl} s makes no sense.", "Give a ttl above 0 and up to a week.")


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(
        f"the lease of {lease.owner} on trial {lease.trial_id} was lost.",
        "Drop the result: whoever holds the trial now measures it again.",
    )


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
