# ruff: noqa: S608 - all parts are constants of this module
"""Keeps the Pareto front of every group of comparable trials as rows, so that a million trials stay quick to rank.

A group is a campaign's trials of one model, protocol, rung and context. Both objectives are minimised. Triggers of
the database repair a front when somebody changes a stored measurement by hand.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, insert, literal, or_, select

from swarm.memory.tables import front

GROUP = ("campaign_id", "model", "protocol", "rung", "context")
_SAME_GROUP = and_(*(front.c[name] == bindparam(f"p_{name}") for name in GROUP))
_BITS, _KLD = bindparam("p_bits", type_=front.c.kld.type), bindparam("p_kld", type_=front.c.kld.type)
_ID = bindparam("p_id", type_=front.c.trial_id.type)

# Of equals the earlier trial stands, so that the front does not depend on who finished first.
_EQUAL = and_(front.c.bits_per_value == _BITS, front.c.kld == _KLD)
_BEATEN = exists().where(
    _SAME_GROUP,
    front.c.bits_per_value <= _BITS,
    front.c.kld <= _KLD,
    or_(front.c.bits_per_value < _BITS, front.c.kld < _KLD, front.c.trial_id < _ID),
)
_IS_BEATEN = select(literal(1)).where(_BEATEN)
_DROP_BEATEN = delete(front).where(_SAME_GROUP, front.c.bits_per_value >= _BITS, front.c.kld >= _KLD)
_INSERT = insert(front)


def enter(connection: Connection, trial: Row[Any], bits: float, kld: float) -> bool:
    """Put a completed trial on its group's front unless one there is as good; drop those that it beats."""
    group = {name: getattr(trial, name) for name in GROUP}
    values = {f"p_{name}": value for name, value in group.items()} | {"p_bits": bits, "p_kld": kld, "p_id": trial.id}
    if connection.execute(_IS_BEATEN, values).first():
        return False
    connection.execute(_DROP_BEATEN, values)
    connection.execute(_INSERT, {"trial_id": trial.id, **group, "bits_per_value": bits, "kld": kld})
    return True


def true_front(where: str = "true") -> str:
    """SQL that computes the fronts from the trials themselves; `where` narrows the trials (as `t`)."""
    columns = ", ".join(f"t.{name}" for name in GROUP)
    return f"""SELECT id, {", ".join(GROUP)}, bits_per_value, kld FROM (
        SELECT t.id, {columns}, t.bits_per_value, t.kld, MIN(t.kld) OVER (
            PARTITION BY {columns} ORDER BY t.bits_per_value, t.kld, t.id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
        FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
            AND t.logit_gain = 1.0 AND {where}
    ) ranked WHERE best_before IS NULL OR kld < best_before"""
