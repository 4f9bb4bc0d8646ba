"""Which schema a database has, and bringing it to ours."""

from __future__ import annotations

import re
from functools import cache, partial
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection, column, inspect, select, table, text
from sqlalchemy.exc import DBAPIError

from swarm.memory import database, sqlite, triggers, views
from swarm.memory.database import Database
from swarm.memory.errors import ForeignStoreError, NewerStoreError, OlderStoreError, StoreError, translated
from swarm.memory.tables import metadata

VERSION_TABLE = "kv_swarm_version"
_VERSION = table(VERSION_TABLE, column("version_num"))
_LOCK_KEY = 0x6B765357
"""PostgreSQL advisory lock that serializes upgrades."""


@cache
def revisions() -> tuple[str, ...]:
    """All revisions of the schema in order; a revision is named by four digits."""
    names = (entry.name for entry in (files("swarm.memory") / "migrations" / "versions").iterdir())
    return tuple(sorted(match.group(1) for name in names if (match := re.match(r"(\d{4})_\w+\.py$", name))))


def current(connection: Connection, place: str) -> str | None:
    """The revision of an open database, None when it is empty.

    Raises:
        ForeignStoreError: the database belongs to something else.
        NewerStoreError: a newer release wrote it.
    """
    try:
        tables = set(inspect(connection).get_table_names())
        rows = connection.execute(select(_VERSION)).all() if VERSION_TABLE in tables else []
    except DBAPIError as error:
        if "malformed" in str(error) or "not a database" in str(error):
            raise ForeignStoreError(f"the store {place} is damaged ({error.orig}).", "Restore a backup.") from error
        raise
    if not tables:
        return None
    revision = str(rows[0][0]) if len(rows) == 1 else ""
    if revision in revisions():
        return revision
    if re.fullmatch(r"\d{4}", revision) and revision > revisions()[-1]:
        raise NewerStoreError(
            f"the store {place} was written by a newer release (schema {revision}, known is {revisions()[-1]}).",
            "Update kv-swarm: pip install -U kv-swarm.",
        )
    raise ForeignStoreError(
        f"the database {place} holds tables of another program.", "Give an empty database or another --store."
    )


def open_database(place: str, *, create: bool, readonly: bool) -> Database:
    """A database whose schema is ours and current; an older one is brought forward when it may be written.

    Raises:
        ForeignStoreError, NewerStoreError: nothing was changed.
        OlderStoreError: it is old and `readonly` is true.
        StoreError: it does not exist and `create` is false.
    """
    _, path = database.locate(place)
    exists = sqlite.is_ours(path) if path else True
    if not exists and (readonly or not create):
        raise StoreError(f"there is no store at {path}.", "Start a campaign with `swarm launch`, or give --store.")
    reader = database.connect(place, mode="ro") if exists else None
    if reader is not None:
        with reader.read() as connection:
            revision = current(connection, reader.place)
        if revision is None and (readonly or not create):
            reader.dispose()
            raise StoreError(f"the database {reader.place} is empty.", "Start a campaign with `swarm launch`.")
        if readonly:
            if revision != revisions()[-1]:
                reader.dispose()
                raise OlderStoreError(
                    f"the store {reader.place} has the older schema {revision}.",
                    "Let any command read it where it can be written, which upgrades it.",
                )
            return reader
        reader.dispose()
        if revision == revisions()[-1]:
            return database.connect(place, mode="rw")
    made = database.connect(place, mode="rwc")
    upgrade(made)
    return made


def upgrade(target: Database) -> None:
    """Bring a database to the current schema, in one transaction, whoever else tries the same now."""
    if target.path:
        _prepare(target)
    with target.write() as connection:
        if not target.path:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        revision = current(connection, target.place)
        if revision != revisions()[-1]:
            views.drop(connection)
            triggers.drop(connection)
            _migrate(connection, revision)
            triggers.create(connection)
            views.create(connection)


def _prepare(target: Database) -> None:
    # Both stand in the file's header and cannot be set inside a transaction. The mark comes first: in WAL mode it
    # would stay in the log, and whoever looks at the file meanwhile would take it for another program's.
    with translated(target.place), target.engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        sqlite.when_unlocked(partial(raw.execute, f"PRAGMA application_id={sqlite.APPLICATION_ID}"))
        sqlite.when_unlocked(partial(raw.execute, "PRAGMA journal_mode=WAL"))


def _migrate(connection: Connection, revision: str | None) -> None:
    """Go from a revision to the newest; None is an empty database, which gets all tables at once."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("swarm.memory") / "migrations"))
    config.attributes["connection"] = connection
    if revision is not None:
        command.upgrade(config, "head")
        return
    metadata.create_all(connection)
    for statement in triggers.FULL_TEXT[connection.dialect.name]:
        connection.exec_driver_sql(statement)
    command.stamp(config, "head")
