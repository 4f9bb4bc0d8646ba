"""What Alembic runs: migrations on the connection that `swarm.memory.schema` hands over."""

from alembic import context

from swarm.memory.schema import VERSION_TABLE
from swarm.memory.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
