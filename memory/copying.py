"""Copies a whole store: SQLite page by page, PostgreSQL row by row into a SQLite file."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import insert, select

from swarm.memory import database, schema, sqlite
from swarm.memory.database import Database
from swarm.memory.errors import StoreError
from swarm.memory.tables import metadata

_CHUNK = 1_000


def backup(source: Database, target: str) -> Path:
    """Copy a store in use to the new SQLite file `target`.

    Raises:
        StoreError: the file exists, or cannot be written.
    """
    path = sqlite.resolve(target)
    if path.exists():
        raise StoreError(f"the backup {path} exists.", "Give another name, or remove it first.")
    if source.path is not None:
        sqlite.backup(source.path, path)
        return path
    partial = path.with_name(f".{path.name}.partial")
    try:
        copy = database.connect(str(partial), mode="rwc")
        schema.upgrade(copy)
        with source.read() as reader, copy.write() as writer:
            for table in metadata.sorted_tables:
                rows = reader.execution_options(yield_per=_CHUNK).execute(select(table))
                for chunk in rows.mappings().partitions(_CHUNK):
                    writer.execute(insert(table), [dict(row) for row in chunk])
        copy.dispose()
        sqlite.backup(partial, path)
    finally:
        for name in (partial.name, f"{partial.name}-wal", f"{partial.name}-shm"):
            partial.with_name(name).unlink(missing_ok=True)
    return path
