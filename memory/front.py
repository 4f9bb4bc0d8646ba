"""Keeps the Pareto front of every group of comparable trials as rows, so that a million trials stay quick to rank.

A group is a campaign's trials of one model, protocol with its version, rung and context. Both objectives are
minimised. Triggers of the database repair a front when somebody changes a stored measurement by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, select

from swarm.memory.tables import GROUP, front

_SAME_GROUP = and_(*(front.c[name] == bindparam(f"p_{name}") for name in GROUP))
_FRONT = select(front.c.bits_per_value, front.c.kld, front.c.trial_id).where(_SAME_GROUP)
_DROP = delete(front).where(front.c.trial_id == bindparam("p_id"))
_INSERT = insert(front)

Point = tuple[float, float, int]
"""Bits per value, KLD, trial: of equals the earlier trial stands, so the order of finishing does not matter."""


def enter(connection: Connection, ended: Iterable[tuple[Row[Any], float, float]]) -> None:
    """Put completed trials with their bits and KLD on their groups' fronts, and drop those that are beaten."""
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for trial, bits, kld in ended:
        groups[tuple(getattr(trial, name) for name in GROUP)].append((bits, kld, trial.id))
    for group, points in groups.items():
        rows = connection.execute(_FRONT, {f"p_{name}": value for name, value in zip(GROUP, group, strict=True)})
        before = {(row.bits_per_value, row.kld, row.trial_id) for row in rows}
        after = set(pareto({*before, *points}))
        if before - after:
            connection.execute(_DROP, [{"p_id": trial} for _, _, trial in before - after])
        if after - before:
            columns = dict(zip(GROUP, group, strict=True))
            values = [{"trial_id": trial, **columns, "bits_per_value": b, "kld": k} for b, k, trial in after - before]
            connection.execute(_INSERT, values)


def pareto(points: Iterable[Point]) -> Iterator[Point]:
    """The points that no other one equals or beats in both objectives, fewest bits first."""
    best = float("inf")
    for point in sorted(points):
        if point[1] < best:
            best = point[1]
            yield point
