"""What all tables share: filters that may be absent, records from rows, and what databases spell differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, Table
from sqlalchemy.dialects import postgresql, sqlite

from swarm.kernels.spec import FrozenModel

T = TypeVar("T")
Record = TypeVar("Record", bound=FrozenModel)

IDS_PER_QUERY = 500
"""Databases bound the number of a statement's parameters."""


def matching(query: Select[Any], wanted: Mapping[Any, Any]) -> Select[Any]:
    """The query for rows whose columns have these values; None stands for any."""
    return query.where(*(column == value for column, value in wanted.items() if value is not None))


def read(kind: type[Record], row: Row[Any], **others: Any) -> Record:
    """A record from the row's columns of the same names, and from `others`."""
    columns = row._mapping
    same = {name: columns[name] for name in kind.model_fields if name not in others and name in columns}
    return kind(**same, **others)


def upsert(connection: Connection, table: Table) -> Any:
    """An INSERT that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in parts that one statement can name."""
    return (items[start : start + IDS_PER_QUERY] for start in range(0, len(items), IDS_PER_QUERY))
