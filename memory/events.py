"""The log of what happened to campaigns and trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.records import Event
from swarm.memory.rows import matching
from swarm.memory.tables import events

_INSERT = insert(events).returning(events.c.id)


def record(
    connection: Connection,
    kind: str,
    message: str,
    *,
    campaign_id: int | None = None,
    trial_id: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> int:
    """Add an event inside a running transaction; returns its id."""
    row = {
        "campaign_id": campaign_id,
        "trial_id": trial_id,
        "kind": text.name(kind, 64),
        "message": text.clean(message),
        "data": text.document(dict(data or {})),
    }
    return int(connection.execute(_INSERT, row).scalar_one())


class Events:
    """`store.events`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        campaign_id: int | None,
        kind: str,
        message: str = "",
        data: Mapping[str, Any] | None = None,
        trial_id: int | None = None,
    ) -> int:
        """Record an event; returns its id. `kind` is a dotted name such as `worker.crash`."""
        with self._database.write() as connection:
            return record(connection, kind, message, campaign_id=campaign_id, trial_id=trial_id, data=data)

    def list(
        self,
        campaign_id: int | None = None,
        *,
        kind: str | None = None,
        trial_id: int | None = None,
        after: int = 0,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[Event]:
        """Events in order of id. `kind` matches a whole name or a prefix ending in a dot; `after` is an event id.

        With `newest` and a limit: the last ones, still in order.
        """
        wanted = {events.c.campaign_id: campaign_id, events.c.trial_id: trial_id}
        query = matching(select(events).where(events.c.id > after), wanted)
        if kind is not None:
            query = query.where(
                events.c.kind.startswith(kind, autoescape=True) if kind.endswith(".") else events.c.kind == kind
            )
        query = query.order_by(events.c.id.desc() if newest else events.c.id).limit(limit)
        with self._database.read() as connection:
            found = [Event(**row) for row in connection.execute(query).mappings()]
        return found[::-1] if newest else found
