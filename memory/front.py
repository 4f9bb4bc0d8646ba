"""Keeps the Pareto front of every group of comparable trials as rows, so that a million trials stay quick to rank.

A group is a campaign's trials of one model, protocol, rung and context. Both objectives are minimised.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, insert, literal, select

from swarm.memory.tables import front

GROUP = ("campaign_id", "model", "protocol", "rung", "context")
_SAME_GROUP = and_(*(front.c[name] == bindparam(f"p_{name}") for name in GROUP))
_BITS, _KLD = bindparam("p_bits", type_=front.c.kld.type), bindparam("p_kld", type_=front.c.kld.type)
_BEATEN = exists().where(_SAME_GROUP, front.c.bits_per_value <= _BITS, front.c.kld <= _KLD)
_DROP_BEATEN = delete(front).where(_SAME_GROUP, front.c.bits_per_value >= _BITS, front.c.kld >= _KLD)
_IS_BEATEN = select(literal(1)).where(_BEATEN)


def enter(connection: Connection, trial: Row[Any], bits: float, kld: float) -> bool:
    """Put a completed trial on its group's front unless one there is as good; drop those that it beats."""
    group = {name: getattr(trial, name) for name in GROUP}
    values = {f"p_{name}": value for name, value in group.items()} | {"p_bits": bits, "p_kld": kld}
    if connection.execute(_IS_BEATEN, values).first():
        return False
    connection.execute(_DROP_BEATEN, values)
    connection.execute(insert(front), {"trial_id": trial.id, **group, "bits_per_value": bits, "kld": kld})
    return True
