"""Trials may edit the weights of their model; those of earlier releases did not."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("trials", sa.Column("edits", sa.String(200), nullable=False, server_default=""))
