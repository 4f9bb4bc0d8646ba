"""The budget ledger: reserved before spending, settled after, never over.

Amounts are whole millionths, so that an account always equals the sum of its reservations exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Double, Row, bindparam, insert, or_, select, update

from swarm.kernels.errors import UsageError
from swarm.memory import events, text
from swarm.memory.database import Database
from swarm.memory.errors import BudgetError, StoreError
from swarm.memory.records import Account, Budget, Reservation
from swarm.memory.rows import portions, read, upsert
from swarm.memory.tables import budgets, campaigns, reservations
from swarm.memory.types import MICRO, Amount, epoch_now, to_micro, utc_now

KINDS = ("trials", "seconds", "worker_seconds", "tokens", "usd")
"""`seconds` is the campaign's wall time; `worker_seconds` what its trials took, summed over workers, never capped."""

WORKER = "worker_seconds"

_OF_CAMPAIGN = budgets.c.campaign_id == bindparam("b_campaign")
_OF_ACCOUNTS = (
    _OF_CAMPAIGN,
    budgets.c.kind == bindparam("b_kind"),
    budgets.c.role.in_([bindparam("b_root"), bindparam("b_role")]),
)
_AMOUNT = bindparam("b_amount", type_=Amount)
_SPENT = bindparam("b_spent", type_=Amount)
_HOLD = (
    update(budgets)
    .where(*_OF_ACCOUNTS, or_(budgets.c.cap.is_(None), budgets.c.spent + budgets.c.reserved + _AMOUNT <= budgets.c.cap))
    .values(reserved=budgets.c.reserved + _AMOUNT)
)
_CLOSE = (
    update(budgets).where(*_OF_ACCOUNTS).values(reserved=budgets.c.reserved - _AMOUNT, spent=budgets.c.spent + _SPENT)
)

_HAS_ROLE = select(budgets.c.kind).where(_OF_CAMPAIGN, budgets.c.role == bindparam("b_role")).limit(1)
_END = (
    update(reservations)
    .where(reservations.c.id == bindparam("b_id"))
    .values(state=bindparam("b_state"), spent=_SPENT, closed_at=utc_now())
)
_HELD_FOR_TRIALS = select(reservations).where(
    reservations.c.trial_id.in_(bindparam("b_trials", expanding=True)), reservations.c.state == "held"
)
_RESERVE = (
    insert(reservations).values(expires=epoch_now() + bindparam("b_ttl", type_=Double)).returning(reservations.c.id)
)


def lock(connection: Connection, campaign_id: int) -> None:
    """Let the writers of a campaign pass one at a time, so that none of them can block another in a circle.

    SQLite has one writer anyway. NO KEY: rows that refer to the campaign can still be added by others.
    """
    if connection.dialect.name == "postgresql":
        query = select(campaigns.c.id).where(campaigns.c.id == campaign_id).with_for_update(key_share=True)
        connection.execute(query)


def open_accounts(connection: Connection, campaign_id: int, budget: Budget) -> None:
    """Make a new campaign's accounts."""
    caps = {"trials": budget.trials, "seconds": budget.seconds, "tokens": budget.tokens, "usd": budget.usd}
    rows = [{"campaign_id": campaign_id, "kind": kind, "role": "", "cap": caps.get(kind)} for kind in KINDS]
    connection.execute(insert(budgets), rows)


def hold(
    connection: Connection,
    campaign_id: int,
    kind: str,
    amount: float,
    *,
    role: str = "",
    trial_id: int | None = None,
    ttl: float | None = None,
) -> int:
    """Reserve inside a running transaction; returns the reservation's id.

    Raises:
        BudgetError: the campaign's or the role's cap does not cover it.
    """
    _check(kind, amount)
    asked = {**_account(campaign_id, kind, role), "b_amount": amount}
    done = connection.execute(_HOLD, asked).rowcount
    if done == 1 and role and _open_role(connection, campaign_id, role):
        done += connection.execute(_HOLD, {**asked, "b_root": role}).rowcount
    if done < (2 if role else 1):
        _refuse(connection, campaign_id, kind, amount, role)
    row = {"campaign_id": campaign_id, "kind": kind, "role": role, "amount": amount, "trial_id": trial_id}
    return int(connection.execute(_RESERVE, {**row, "b_ttl": ttl}).scalar_one())


def _account(campaign_id: int, kind: str, role: str) -> dict[str, Any]:
    """The parameters of `_OF_ACCOUNTS`: the campaign's account and the role's."""
    return {"b_campaign": campaign_id, "b_kind": kind, "b_root": "", "b_role": role}


def _open_role(connection: Connection, campaign_id: int, role: str) -> bool:
    """Make a role's accounts; False when it has them."""
    if connection.execute(_HAS_ROLE, {"b_campaign": campaign_id, "b_role": role}).first():
        return False
    rows = [{"campaign_id": campaign_id, "kind": kind, "role": role} for kind in KINDS]
    connection.execute(upsert(connection, budgets).values(rows).on_conflict_do_nothing())
    return True


def _check(kind: str, amount: float) -> float:
    if kind not in KINDS:
        raise UsageError(f"unknown budget kind {kind!r}.", f"Known: {', '.join(KINDS)}.")
    if not 0 <= amount < 1e12:
        raise UsageError(f"{amount} {kind} is not an amount of a budget.", "Give a number from 0 to 1e12.")
    return amount


def _refuse(connection: Connection, campaign_id: int, kind: str, amount: float, role: str) -> None:
    accounts = _account(campaign_id, kind, role)
    for row in connection.execute(select(budgets).where(*_OF_ACCOUNTS), accounts).all():
        if row.cap is not None and row.spent + row.reserved + amount > row.cap:
            whose = f"role {row.role!r}" if row.role else "the campaign"
            raise BudgetError(
                f"{amount:g} {kind} are more than the budget of {whose} has left "
                f"({row.spent:g} spent and {row.reserved:g} reserved of {row.cap:g}).",
                "Start a campaign with a larger budget.",
            )
    raise StoreError(f"campaign {campaign_id} has no account for {kind}.", "Give the id of an existing campaign.")


def close(
    connection: Connection,
    rows: Sequence[Row[Any]],
    spent: Mapping[int, float],
    state: str = "settled",
    unreserved: Sequence[_Entry] = (),
) -> None:
    """Close held reservations (`rows`) with what each of them cost, by its id; what is not in `spent` cost nothing.

    `state` is settled, released or forfeited; `unreserved` are further entries, made together with theirs.
    """
    costs = {row.id: _check(row.kind, spent.get(row.id, 0.0)) for row in rows}
    if rows:
        connection.execute(_END, [{"b_id": row.id, "b_state": state, "b_spent": costs[row.id]} for row in rows])
    entries = [_Entry(row.campaign_id, row.kind, row.role, row.amount, costs[row.id]) for row in rows]
    # One statement for all, with one row per account, whatever the number of entries.
    sums: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for entry in (*entries, *unreserved):
        total = sums[entry.campaign_id, entry.kind, entry.role]
        total[0] += to_micro(entry.amount)
        total[1] += to_micro(entry.spent)
    if sums:
        changes = [
            {**_account(*account), "b_amount": amount / MICRO, "b_spent": spent / MICRO}
            for account, (amount, spent) in sums.items()
        ]
        connection.execute(_CLOSE, changes)
    for row in rows:
        if costs[row.id] > row.amount:
            message = f"{row.kind}: {costs[row.id]:g} were spent on a reservation of {row.amount:g}"
            events.record(connection, "ledger.overrun", message, campaign_id=row.campaign_id, trial_id=row.trial_id)


class _Entry(NamedTuple):
    """A change of the accounts of a role and of its campaign: so much less is reserved, so much more is spent."""

    campaign_id: int
    kind: str
    role: str
    amount: float
    spent: float


class TrialCost(NamedTuple):
    """What a worker spent on a trial; one that `is_over` has used up its place in the budget of trials."""

    campaign_id: int
    trial_id: int
    role: str
    seconds: float
    is_over: bool


def settle_trials(connection: Connection, costs: Sequence[TrialCost]) -> None:
    """Close the reservations of trials that are over, and enter what the workers took.

    Workers' seconds are reserved by nobody: what each trial took stands in its own row.
    """
    rows: list[Row[Any]] = []
    for portion in portions([cost.trial_id for cost in costs if cost.is_over]):
        rows += connection.execute(_HELD_FOR_TRIALS, {"b_trials": portion}).all()
    worked = [_Entry(c.campaign_id, WORKER, c.role, 0.0, _check(WORKER, c.seconds)) for c in costs]
    close(connection, rows, {row.id: row.amount for row in rows}, unreserved=worked)


def settle_one(connection: Connection, reservation: Reservation, spent: float, state: str = "settled") -> None:
    """Close a reservation inside a running transaction.

    Raises:
        StoreError: it was closed before.
    """
    _check(reservation.kind, spent)
    query = select(reservations).where(reservations.c.id == reservation.id, reservations.c.state == "held")
    rows = connection.execute(query).all()
    if not rows:
        raise StoreError("the reservation was settled or released before.", "Close every reservation once.")
    close(connection, rows, {reservation.id: spent}, state)


class Ledger:
    """`store.ledger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reserve(self, campaign_id: int, kind: str, amount: float, role: str = "", *, ttl: float = 3600) -> Reservation:
        """Set an amount aside before it is spent.

        Args:
            campaign_id: whose budget.
            kind: one of `KINDS`.
            amount: the most that may be spent.
            role: who spends it; its own account is kept beside the campaign's.
            ttl: seconds after which nobody is expected to settle it any more.

        Raises:
            BudgetError: the budget does not cover it.
        """
        role = text.name(role, 64)
        with self._database.write() as connection:
            lock(connection, campaign_id)
            identity = hold(connection, campaign_id, kind, amount, role=role, ttl=ttl)
        return Reservation(id=identity, campaign_id=campaign_id, kind=kind, role=role, amount=amount)

    def settle(self, reservation: Reservation, spent: float) -> None:
        """Close a reservation with what was really spent.

        Raises:
            StoreError: it was closed before.
        """
        with self._database.write() as connection:
            lock(connection, reservation.campaign_id)
            settle_one(connection, reservation, spent)

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back unspent.

        Raises:
            StoreError: it was closed before.
        """
        with self._database.write() as connection:
            lock(connection, reservation.campaign_id)
            settle_one(connection, reservation, 0.0, "released")

    def forfeit_expired(self, campaign_id: int) -> int:
        """Count reservations that nobody settled in time as spent in full: whether they were cannot be known.

        Returns:
            How many there were.
        """
        late = (reservations.c.campaign_id == campaign_id, reservations.c.expires <= epoch_now())
        query = select(reservations).where(reservations.c.state == "held", *late)
        with self._database.write() as connection:
            lock(connection, campaign_id)
            rows = connection.execute(query).all()
            close(connection, rows, {row.id: row.amount for row in rows}, state="forfeited")
        return len(rows)

    def limit(self, campaign_id: int, kind: str, role: str, cap: float | None) -> None:
        """Cap what one role may spend; None takes the cap away."""
        _check(kind, cap or 0)
        role = text.name(role, 64)
        row = {"campaign_id": campaign_id, "kind": kind, "role": role, "cap": cap}
        with self._database.write() as connection:
            _open_role(connection, campaign_id, role)
            statement = upsert(connection, budgets).values(row)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["campaign_id", "kind", "role"], set_={"cap": cap})
            )

    def totals(self, campaign_id: int) -> dict[str, Account]:
        """The campaign's accounts by kind."""
        return {account.kind: account for account in self.accounts(campaign_id) if not account.role}

    def accounts(self, campaign_id: int) -> list[Account]:
        """All accounts of a campaign: by kind, the whole campaign first, then its roles."""
        query = select(budgets).where(budgets.c.campaign_id == campaign_id).order_by(budgets.c.kind, budgets.c.role)
        with self._database.read() as connection:
            return [read(Account, row) for row in connection.execute(query)]
