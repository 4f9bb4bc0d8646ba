"""The first schema."""

from alembic import op

from swarm.memory import front, fulltext
from swarm.memory.tables import metadata

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    metadata.create_all(op.get_bind())
    fulltext.create(op.get_bind())
    front.create(op.get_bind())
