"""SQL types, columns and clock expressions that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Double, ForeignKey, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

Key = BigInteger().with_variant(Integer, "sqlite")
"""Surrogate key: SQLite gives row numbers to columns that are called INTEGER only."""

Document = JSON().with_variant(JSONB(), "postgresql")

MICRO = 1_000_000


class UtcTime(TypeDecorator[datetime]):
    """A moment, always in UTC and aware of it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite keeps the text of a naive moment; all of them are UTC, so texts compare like moments."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """The moment in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Amount(TypeDecorator[float]):
    """An amount of a budget, kept as an integer number of millionths so that sums are exact."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: float | None, _dialect: Dialect) -> int | None:
        """Millionths, halves rounded up."""
        return None if value is None else to_micro(value)

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> float | None:
        """The amount in its unit."""
        return None if value is None else int(value) / MICRO


def to_micro(value: float) -> int:
    """An amount as a whole number of millionths."""
    return int((Decimal(repr(float(value))) * MICRO).to_integral_value(ROUND_HALF_UP))


class utc_now(FunctionElement[datetime]):  # noqa: N801 - a SQL function
    """The database's wall clock as a moment."""

    type = UtcTime()
    inherit_cache = True


class epoch_now(FunctionElement[float]):  # noqa: N801 - a SQL function
    """The database's wall clock in seconds since 1970: leases are arithmetic on it."""

    type = Double()
    inherit_cache = True


@compiles(utc_now, "sqlite")
def _utc_now_sqlite(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(utc_now, "postgresql")
def _utc_now_postgresql(_element: utc_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(epoch_now, "sqlite")
def _epoch_now_sqlite(_element: epoch_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _epoch_now_postgresql(_element: epoch_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def identity() -> Column[Any]:
    """The primary key of a table whose rows are numbered."""
    return Column("id", Key, primary_key=True, autoincrement=True)


def required(kind: Any, *names: str, **options: Any) -> list[Column[Any]]:
    """Columns of one type that are never null."""
    return [Column(name, kind, nullable=False, **options) for name in names]


def optional(kind: Any, *names: str) -> list[Column[Any]]:
    """Columns of one type that may be null."""
    return [Column(name, kind) for name in names]


def created_at() -> Column[Any]:
    """When a row was made, by the database's clock."""
    return Column("created_at", UtcTime, nullable=False, default=utc_now())


def reference(target: str, *, nullable: bool = False, primary: bool = False) -> Column[Any]:
    """A column such as `trial_id` that refers to `trials.id`."""
    column = target.split(".")[0].removesuffix("s") + "_id"
    return Column(column, Key, ForeignKey(target), nullable=nullable, primary_key=primary)
