"""Keeps the Pareto front of every group of comparable trials as rows, so that a million trials stay quick to rank.

A group is a campaign's trials of one model, protocol with its version, rung and context. Both objectives are
minimised. Triggers of the database repair a front when somebody changes a stored measurement by hand.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, select

from swarm.memory.tables import GROUP, front

_SAME_GROUP = and_(*(front.c[name] == bindparam(f"p_{name}") for name in GROUP))
_FRONT = select(front.c.bits_per_value, front.c.kld, front.c.trial_id).where(_SAME_GROUP)
_DROP = delete(front).where(front.c.trial_id == bindparam("p_id"))
_INSERT = insert(front)

Point = tuple[float, ...]
"""Objectives, all minimised: two, or three in trials of engines."""


def enter(connection: Connection, ended: Iterable[tuple[Row[Any], float, float]]) -> None:
    """Put completed trials with their bits and KLD on their groups' fronts, and drop those that are beaten."""
    groups: dict[tuple[Any, ...], dict[int, Point]] = defaultdict(dict)
    for trial, bits, kld in ended:
        groups[tuple(getattr(trial, name) for name in GROUP)][trial.id] = (kld, bits)
    for group, points in groups.items():
        rows = connection.execute(_FRONT, {f"p_{name}": value for name, value in zip(GROUP, group, strict=True)})
        before = {row.trial_id: (row.kld, row.bits_per_value) for row in rows}
        # Of equals the earlier trial stands, so the order of finishing does not matter.
        known = sorted((before | points).items())
        after = dict(known[i] for i in pareto_front([point for _, point in known]))
        if dropped := before.keys() - after.keys():
            connection.execute(_DROP, [{"p_id": trial} for trial in dropped])
        if new := after.keys() - before.keys():
            columns = dict(zip(GROUP, group, strict=True))
            made = [{"trial_id": i, **columns, "kld": after[i][0], "bits_per_value": after[i][1]} for i in sorted(new)]
            connection.execute(_INSERT, made)


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point equals or beats in every objective, by rising last objective.

    Of equal points the first one stands.
    """
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][::-1], i)):
        # Those before cost no more in the last objective: of two objectives the latest kept is the best of the other.
        rivals = kept[-1:] if len(points[i]) == 2 else kept
        if points[i][0] < float("inf") and not any(_covers(points[k], points[i]) for k in rivals):
            kept.append(i)
    return kept


def _covers(one: Point, other: Point) -> bool:
    """Whether a point equals or beats another in every objective."""
    return all(a <= b for a, b in zip(one, other, strict=True))
