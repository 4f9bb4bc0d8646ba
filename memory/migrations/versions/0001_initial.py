"""The schema of release 0.1, from which later ones lead on; new stores get today's at once."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: a store that has this revision was made by release 0.1."""
