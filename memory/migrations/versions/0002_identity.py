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
from swarm.memory.trials import columns

revision = "0002"
down_revision = "0001"

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
GROUP = ("campaign_id", "model", "protocol", "protocol_version", "rung", "context")
CHUNK = 1_000


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
    trials = sa.Table("trials", sa.MetaData(), autoload_with=connection)
    taken: set[tuple[int, str]] = set()
    query = sa.select(trials.c.id, trials.c.campaign_id, trials.c.spec).order_by(trials.c.id.desc()).limit(CHUNK)
    rows = connection.execute(query).all()
    while rows:
        for row in rows:
            values = _columns(row.spec)
            if not values:
                continue
            if (row.campaign_id, values["fingerprint"]) in taken:
                del values["fingerprint"]
            else:
                taken.add((row.campaign_id, values["fingerprint"]))
            present = {name: value for name, value in values.items() if name in trials.c}  # later ones come later
            connection.execute(sa.update(trials).where(trials.c.id == row.id).values(**present))
        rows = connection.execute(query.where(trials.c.id < rows[-1].id)).all()


def _columns(stored: dict[str, Any]) -> dict[str, Any]:
    """The new columns; none for a trial whose method is not installed here: it keeps its old fingerprint."""
    try:
        spec = TrialSpec.model_validate(stored)
        return columns(spec, dict.fromkeys(identity.versions(spec), 1))
    except (SwarmError, ValidationError):
        return {}
