"""Who may run a trial and write its result: claims with fenced leases on the database's clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, Row, Select, and_, bindparam, or_, select, update

from swarm.experiments import identity
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import UsageError
from swarm.memory import ledger, text
from swarm.memory.database import Database
from swarm.memory.errors import LeaseLostError
from swarm.memory.events import record
from swarm.memory.records import Lease
from swarm.memory.tables import trials
from swarm.memory.trials import columns
from swarm.memory.types import epoch_now, utc_now

NO_LEASE: dict[str, None] = {"lease_owner": None, "lease_at": None, "lease_expires": None}


def expired(at: ColumnElement[float], expires: ColumnElement[float]) -> ColumnElement[bool]:
    """Whether a lease has run out.

    Also when it ends further ahead than it ever could: then the clock was set back, and its owner, were it alive,
    would have renewed it by the new clock. Taking it is safe either way: the token fences the old owner off.
    """
    now = epoch_now()
    return or_(expires <= now, expires - now > 2 * (expires - at))


_OWNED = (
    trials.c.id == bindparam("b_trial"),
    trials.c.lease_token == bindparam("b_token"),
    trials.c.state == "running",
    trials.c.lease_expires > epoch_now(),
)
"""What holds for a trial while a lease on it is good."""

_TTL = bindparam("b_ttl", type_=Double)
_LOST = and_(trials.c.state == "running", expired(trials.c.lease_at, trials.c.lease_expires))
_SEEN = tuple(trials.c[name] for name in ("id", "campaign_id", "number", "state", "lease_owner", "versions"))
_CLAIMABLE = select(*_SEEN).where(trials.c.id == bindparam("b_trial"), or_(trials.c.state == "waiting", _LOST))
_NEXT = tuple(
    select(*_SEEN).where(trials.c.campaign_id == bindparam("b_campaign"), free).order_by(trials.c.number).limit(1)
    for free in (_LOST, trials.c.state == "waiting")
)
_TAKE = (
    update(trials)
    .where(trials.c.id == bindparam("b_trial"))
    .values(
        state="running",
        lease_owner=bindparam("b_owner"),
        lease_token=trials.c.lease_token + 1,
        lease_at=epoch_now(),
        lease_expires=epoch_now() + _TTL,
        attempts=trials.c.attempts + 1,
        started_at=utc_now(),
    )
    .returning(trials.c.lease_token, trials.c.lease_expires)
)
_RENEW = (
    update(trials)
    .where(*_OWNED)
    .values(lease_at=epoch_now(), lease_expires=epoch_now() + _TTL)
    .returning(trials.c.lease_expires)
)
_GIVE_BACK = update(trials).where(*_OWNED).values(state="waiting", **NO_LEASE)


def refuse(connection: Connection, lease: Lease, what: str) -> None:
    """Log a write that came too late."""
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


class ClaimQueue:
    """`store.queue`: trials wait here to be run, under a lease that is renewed until the result is written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, trial_id: int, owner: str, ttl: float = 120.0) -> Lease | None:
        """Take a trial that waits, or whose lease has expired; None when it is taken or finished.

        `owner` is for people to read; after `ttl` seconds the lease expires unless `heartbeat` renews it.
        """
        _check_ttl(ttl)
        trial = {"b_trial": trial_id}
        if not self._database.in_batch:
            with self._database.read() as connection:  # most refusals need no write lock
                seen = connection.execute(_CLAIMABLE, trial).one_or_none()
            if seen is None:
                return None
        with self._database.write() as connection:
            if self._database.in_batch and connection.dialect.name == "postgresql":
                of_trial = select(trials.c.campaign_id).where(trials.c.id == trial_id)
                ledger.lock(connection, connection.execute(of_trial).scalar_one_or_none() or 0)
            return _take(connection, _CLAIMABLE.with_for_update(), trial, owner, ttl)

    def claim_next(self, campaign_id: int, owner: str, ttl: float = 120.0) -> Lease | None:
        """Take the earliest trial of a campaign that waits or whose lease has expired; None when there is none."""
        _check_ttl(ttl)
        campaign = {"b_campaign": campaign_id}
        with self._database.read() as connection:
            if not any(connection.execute(query, campaign).first() for query in _NEXT):
                return None
        with self._database.write() as connection:
            self._lock(connection, campaign_id)
            for query in _NEXT:
                lease = _take(connection, query.with_for_update(skip_locked=True), campaign, owner, ttl)
                if lease is not None:
                    return lease
        return None

    def heartbeat(self, lease: Lease) -> Lease:
        """Renew a lease by its ttl.

        Raises:
            LeaseLostError: it had expired or was taken over. When nobody took it, `claim` gets a new one.
        """
        with self._database.write() as connection:
            self._lock(connection, lease.campaign_id)
            row = connection.execute(_RENEW, {**_fence(lease), "b_ttl": lease.ttl}).one_or_none()
            if row is None:
                refuse(connection, lease, "heartbeat")
        if row is None:
            raise LeaseLostError(
                f"the lease of {lease.owner} on trial {lease.trial_id} was lost.",
                "Drop the result: whoever holds the trial now measures it again.",
            )
        return lease.model_copy(update={"expires": row.lease_expires})

    def release(self, lease: Lease) -> None:
        """Give a claimed trial back untouched, e.g. when the campaign is interrupted; a lost lease is no error."""
        with self._database.write() as connection:
            self._lock(connection, lease.campaign_id)
            connection.execute(_GIVE_BACK, _fence(lease))

    def _lock(self, connection: Connection, campaign_id: int) -> None:
        # Whoever takes more than one row's lock takes the campaign's first (see `ledger.lock`).
        if self._database.in_batch:
            ledger.lock(connection, campaign_id)


def _fence(lease: Lease) -> dict[str, int]:
    """The parameters of `_OWNED`."""
    return {"b_trial": lease.trial_id, "b_token": lease.token}


def _take(
    connection: Connection, free: Select[Any], parameters: Mapping[str, int], owner: str, ttl: float
) -> Lease | None:
    before = connection.execute(free, parameters).one_or_none()
    if before is None:
        return None
    who = text.name(owner)
    row = connection.execute(_TAKE, {"b_trial": before.id, "b_owner": who, "b_ttl": ttl}).one()
    if before.state == "running":
        message = f"{who} took over from {before.lease_owner}, whose lease had expired"
        record(connection, "lease.taken_over", message, campaign_id=before.campaign_id, trial_id=before.id)
    if not identity.is_present(before.versions):
        _renew_identity(connection, before)
    return Lease(
        trial_id=before.id,
        campaign_id=before.campaign_id,
        number=before.number,
        owner=who,
        token=row.lease_token,
        ttl=ttl,
        expires=row.lease_expires,
    )


def _renew_identity(connection: Connection, trial: Row[Any]) -> None:
    """Give a trial that was proposed under other versions those that it is measured with now.

    Where the campaign has planned the same experiment anew already, the trial keeps its fingerprint.
    """
    stored = connection.execute(select(trials.c.spec).where(trials.c.id == trial.id)).scalar_one()
    values = columns(TrialSpec.model_validate(stored))
    same = (trials.c.campaign_id == trial.campaign_id, trials.c.fingerprint == values["fingerprint"])
    if connection.execute(select(trials.c.id).where(*same)).first() is not None:
        del values["fingerprint"]
    connection.execute(update(trials).where(trials.c.id == trial.id).values(**values))


def _check_ttl(ttl: float) -> None:
    if not 0 < ttl <= 7 * 86400:
        raise UsageError(f"a lease of {ttl} s makes no sense.", "Give a ttl above 0 and up to a week.")
