"""A trial is identified by what was asked and by versions; release 0.1 identified it by the code's hash as well.

All that 0.1 measured is version 1. Where it measured one experiment under several revisions of the code, the latest
trial takes the new fingerprint, and the others keep their old ones: a campaign has no fingerprint twice.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from pydantic import ValidationError
from sqlalchemy.dialects import postgresql

from swarm.experiments import identity
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.memory import trial_rows

revision = "0002"
down_revision = "0001"

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
GROUP = ("campaign_id", "model", "protocol", "protocol_version", "rung", "context")
CHUNK = 1_000
_TRIALS = sa.table(
    "trials",
    *(sa.column(name, sa.Integer) for name in ("id", "campaign_id")),
    *(sa.column(name, sa.String) for name in ("fingerprint", "configuration_id")),
    *(sa.column(name, DOCUMENT) for name in ("spec", "versions")),
)


def upgrade() -> None:
    """Add the versions, identify the trials anew, and keep fronts apart by the version of their protocol."""
    op.add_column("trials", sa.Column("versions", DOCUMENT, nullable=False, server_default="{}"))
    for table in ("trials", "front"):
        op.add_column(table, sa.Column("protocol_version", sa.Integer(), nullable=False, server_default="1"))
    op.drop_index("ix_front_group", "front")
    op.create_index("ix_front_group", "front", [*GROUP, "bits_per_value", "kld"])
    _identify(op.get_bind())


def _identify(connection: sa.Connection) -> None:
    """Go through the trials from the latest to the first: the latest of a campaign takes a fingerprint."""
    taken: set[tuple[int, str]] = set()
    query = sa.select(_TRIALS.c.id, _TRIALS.c.campaign_id, _TRIALS.c.spec).order_by(_TRIALS.c.id.desc()).limit(CHUNK)
    change = sa.update(_TRIALS).where(_TRIALS.c.id == sa.bindparam("b_id"))
    rows = connection.execute(query).all()
    while rows:
        for row in rows:
            values = _identity(row.spec)
            place = (row.campaign_id, values.get("fingerprint", ""))
            if place in taken:
                del values["fingerprint"]
            taken.add(place)
            if values:
                connection.execute(change.values(**values), {"b_id": row.id})
        rows = connection.execute(query.where(_TRIALS.c.id < rows[-1].id)).all()


def _identity(stored: dict[str, Any]) -> dict[str, Any]:
    """The new columns; none for a trial whose method is not installed here: it keeps its old fingerprint."""
    try:
        spec = TrialSpec.model_validate(stored)
        versions = dict.fromkeys(identity.versions(spec), 1)
    except (SwarmError, ValidationError):
        return {}
    return {
        "versions": versions,
        "fingerprint": identity.fingerprint(spec, versions),
        "configuration_id": trial_rows.configuration_id(spec, versions),
    }
