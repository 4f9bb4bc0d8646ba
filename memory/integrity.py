"""Checks that a store is sound and that its parts agree with each other."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import BigInteger, Connection, Select, case, cast, exists, func, or_, select, text

from swarm.memory.database import Database
from swarm.memory.ledger import WORKER
from swarm.memory.records import UNFINISHED
from swarm.memory.tables import budgets, campaigns, evidence, front, measurements, proposals, reservations, trials
from swarm.memory.triggers import true_front
from swarm.memory.types import MICRO, Amount

_SHOWN = 10


def check(database: Database) -> list[str]:
    """What is wrong with the store, one line each; empty when nothing is."""
    with database.read() as connection:
        return [
            *(_pages(connection) if database.dialect == "sqlite" else ()),
            *_ledger(connection),
            *_trials(connection),
            *_front(connection),
            *_evidence(connection),
        ]


def _pages(connection: Connection) -> Iterator[str]:
    for (line,) in connection.execute(text("PRAGMA integrity_check(10)")):
        if line != "ok":
            yield f"database file: {line}"
    for row in connection.execute(text("PRAGMA foreign_key_check")).fetchmany(_SHOWN):
        yield f"{row[0]} row {row[1]} refers to a row of {row[2]} that does not exist"


def _ledger(connection: Connection) -> Iterator[str]:
    held = func.sum(case((reservations.c.state == "held", reservations.c.amount), else_=0), type_=Amount)
    spent = func.sum(reservations.c.spent, type_=Amount)
    by = (reservations.c.campaign_id, reservations.c.kind, reservations.c.role)
    parts: dict[tuple[int, str, str], list[float]] = {}
    for campaign, kind, role, reserved, cost in connection.execute(select(*by, held, spent).group_by(*by)):
        for account in {(campaign, kind, ""), (campaign, kind, role)}:
            total = parts.setdefault(account, [0.0, 0.0])
            total[0] += reserved
            total[1] += cost
    took = cast(func.sum(cast(func.round(trials.c.seconds * MICRO), BigInteger)), BigInteger)
    each = select(trials.c.campaign_id, trials.c.proposer, took).group_by(trials.c.campaign_id, trials.c.proposer)
    for campaign, role, micro in connection.execute(each):
        for account in {(campaign, WORKER, ""), (campaign, WORKER, role)}:
            parts.setdefault(account, [0.0, 0.0])[1] += micro / MICRO
    for row in connection.execute(select(budgets)):
        account = (row.campaign_id, row.kind, row.role)
        reserved, cost = (round(part, 6) for part in parts.pop(account, [0.0, 0.0]))
        name = f"campaign {row.campaign_id}, {row.kind}" + (f" of {row.role}" if row.role else "")
        if (reserved, cost) != (row.reserved, row.spent):
            yield f"{name}: the account says {row.reserved}/{row.spent}, its reservations {reserved}/{cost}"
        if row.cap is not None and row.kind == "trials" and row.reserved + row.spent > row.cap:
            yield f"{name}: {row.reserved + row.spent} are used of {row.cap}"
    for account in parts:
        yield f"reservations without an account: {account}"


def _trials(connection: Connection) -> Iterator[str]:
    done = trials.c.state == "complete"
    measured = exists().where(measurements.c.trial_id == trials.c.id)
    proposed = exists().where(proposals.c.trial_id == trials.c.id)
    held = exists().where(reservations.c.trial_id == trials.c.id, reservations.c.state == "held")
    paid = (
        select(func.count())
        .where(
            reservations.c.trial_id == trials.c.id,
            reservations.c.kind == "trials",
            reservations.c.state.in_(["held", "settled"]),
        )
        .scalar_subquery()
    )
    unfinished = trials.c.state.in_(UNFINISHED)
    rules: dict[str, Select[tuple[int]]] = {
        "complete without measurements": select(trials.c.id).where(done, ~measured),
        "measured but not complete": select(trials.c.id).where(~done, measured),
        "running without a lease": select(trials.c.id).where(
            trials.c.state == "running", or_(trials.c.lease_owner.is_(None), trials.c.lease_expires.is_(None))
        ),
        "without a proposal": select(trials.c.id).where(~proposed),
        "finished with money still reserved": select(trials.c.id).where(~unfinished, held),
        "not paid for exactly once": select(trials.c.id).where(paid != 1),
    }
    for problem, query in rules.items():
        ids = connection.execute(query.limit(_SHOWN)).scalars().all()
        if ids:
            yield f"trials {problem}: {', '.join(map(str, ids))}"
    numbers = select(campaigns.c.id, campaigns.c.next_number, func.count(trials.c.id), func.max(trials.c.number))
    for row in connection.execute(numbers.outerjoin(trials).group_by(campaigns.c.id, campaigns.c.next_number)):
        campaign, proposed_so_far, count, last = row
        if count != proposed_so_far or (count and last != count - 1):
            yield f"campaign {campaign}: {count} trials, {proposed_so_far} numbers, the last one {last}"


def _front(connection: Connection) -> Iterator[str]:
    true = {row.id for row in connection.execute(text(true_front()))}
    stored = set(connection.execute(select(front.c.trial_id)).scalars())
    if true != stored:
        yield f"Pareto fronts: trials {sorted(true ^ stored)[:_SHOWN]} are wrongly on or off them"


def _evidence(connection: Connection) -> Iterator[str]:
    query = select(evidence.c.finding_id).join(trials, trials.c.id == evidence.c.trial_id)
    for finding in connection.execute(query.where(trials.c.state.in_(UNFINISHED)).limit(_SHOWN)).scalars():
        yield f"finding {finding} rests on a trial that is not finished"
