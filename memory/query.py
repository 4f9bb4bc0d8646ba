"""Questions in SQL that can read and nothing else, bounded in time and in rows.

Read-only by construction, not by looking at the text: SQLite opens the file in mode `ro` under an authorizer that
lets pass reads alone; PostgreSQL runs the text as the query of a cursor in a read-only transaction, unless its plan
calls a function that acts. Rows are taken one by one, so that an answer is never held beyond its limits.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import UsageError
from swarm.memory import postgresql, sqlite
from swarm.memory.errors import StoreError, describe

if TYPE_CHECKING:
    import psycopg

    from swarm.memory.database import Database

MAX_TEXT = 10_000_000
"""Bytes of one value or statement; keeps a query from building giants in memory."""
MAX_ANSWER = 50 * MAX_TEXT
"""Bytes of text and binary values in a whole answer."""

_REMEDY = "Queries only read: write one SELECT; `swarm query --help` shows the views."
_ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
_STEPS = 1_000
"""SQLite instructions between two looks at the clock."""
_GRACE = 1.0
"""Seconds after which a query is given up that does not look at the clock, being inside one long instruction."""


@dataclass(frozen=True)
class Result:
    """The answer to a query: `truncated` when it had more rows than were asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool
    seconds: float

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def run(database: Database, sql: str, *, limit: int = 1_000, seconds: float = 10.0) -> Result:
    """Answer one SELECT with at most `limit` rows in at most `seconds`.

    Raises:
        UsageError: the statement is wrong, writes, is more than one, or takes too long.
        StoreError: the store cannot be read.
    """
    if not 1 <= limit <= 10_000_000 or not 0 < seconds <= 86_400:
        raise UsageError(f"limit {limit} or time {seconds} is out of range.", "Give a positive limit and time.")
    if not sql.strip():
        raise UsageError("the query is empty.", _REMEDY)
    if len(sql) > MAX_TEXT // 10:
        raise UsageError("the query is longer than a megabyte.", "Write a shorter one.")
    started = time.monotonic()
    if database.path is not None:
        columns, rows = _sqlite_in_time(database.path, sql, limit, seconds)
    else:
        columns, rows = _postgresql(database, sql, limit, seconds)
    took = time.monotonic() - started
    return Result(_distinct(columns), [tuple(map(plain, row)) for row in rows[:limit]], len(rows) > limit, took)


def _distinct(columns: list[str]) -> tuple[str, ...]:
    """Column names of which none is twice: the second `kld` is `kld_2`, as a row is also a mapping and a file."""
    found: list[str] = []
    for name in columns:
        number, given = 1, name
        while given in found or (number > 1 and given in columns):
            number += 1
            given = f"{name}_{number}"
        found.append(given)
    return tuple(found)


def plain(value: Any) -> Any:
    """A value as JSON and CSV know it: decimals as numbers, bytes as hexadecimal, moments as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime | date):
        return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
    return value


def _taken(rows: Iterable[tuple[Any, ...]], limit: int) -> list[tuple[Any, ...]]:
    """The first rows, and one more to show that there are more."""
    found: list[tuple[Any, ...]] = []
    held = 0
    for row in rows:
        held += sum(len(value) for value in row if isinstance(value, str | bytes))
        if held > MAX_ANSWER:
            raise UsageError(
                f"the answer has more than {MAX_ANSWER // 1_000_000} MB in its first {len(found) + 1} rows.",
                "Ask for fewer rows or columns.",
            )
        found.append(row)
        if len(found) > limit:
            break
    return found


def _sqlite_in_time(path: Path, sql: str, limit: int, seconds: float) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The answer, or the error that it takes too long, whatever SQLite is busy with.

    SQLite looks at the clock between instructions only, and one call of `instr` or `replace` on megabytes can take
    hours. So it works in a thread of its own, which a caller that has waited long enough leaves to itself.
    """
    answer: Future[tuple[list[str], list[tuple[Any, ...]]]] = Future()

    def work() -> None:
        try:
            answer.set_result(_sqlite(path, sql, limit, seconds))
        except BaseException as error:  # whatever it is, the caller raises it
            answer.set_exception(error)

    threading.Thread(target=work, name="swarm-query", daemon=True).start()
    try:
        return answer.result(min(seconds + _GRACE, threading.TIMEOUT_MAX))
    except TimeoutError as error:
        raise _too_long(seconds) from error


def _sqlite(path: Path, sql: str, limit: int, seconds: float) -> tuple[list[str], list[tuple[Any, ...]]]:
    try:
        connection = sqlite3.connect(sqlite.uri(path, sqlite.readonly_mode(path)), uri=True, timeout=seconds)
    except sqlite3.Error as error:
        raise describe(error, str(path)) from error
    denied: list[str] = []
    deadline = time.monotonic() + seconds
    try:
        # What SQLite does for itself on first use (attach to the log, open full-text tables) is no query's doing.
        connection.execute("SELECT rowid FROM findings_fts LIMIT 0").fetchall()
        connection.execute("PRAGMA temp_store=FILE")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        connection.set_authorizer(_authorizer(denied))
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise UsageError("the statement gives no rows.", _REMEDY)
        return [column[0] for column in cursor.description], _taken(cursor, limit)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _sqlite_error(error, denied, path, seconds) from error
    finally:
        connection.close()


def _authorizer(denied: list[str]) -> Callable[[int, str | None, str | None, str | None, str | None], int]:
    def decide(action: int, first: str | None, second: str | None, _database: str | None, _source: str | None) -> int:
        if action in _ALLOWED and not (action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA and first == "data_version":  # full-text search asks for it
            return sqlite3.SQLITE_OK
        denied.append(str(action))
        return sqlite3.SQLITE_DENY

    return decide


def _sqlite_error(error: Exception, denied: list[str], path: Path, seconds: float) -> StoreError | UsageError:
    text = str(error)
    if denied or "not authorized" in text or "prohibited" in text or "readonly" in text:
        return UsageError("the statement does something other than read.", _REMEDY)
    if "interrupted" in text:
        return _too_long(seconds)
    if "one statement" in text:
        return UsageError("the query has more than one statement.", _REMEDY)
    if isinstance(error, sqlite3.DataError) or "too big" in text:
        return UsageError(f"the query made a value of more than {MAX_TEXT} bytes.", "Ask for less.")
    if isinstance(error, sqlite3.OperationalError | sqlite3.ProgrammingError) and "disk" not in text:
        if "locked" in text or "unable to open" in text:
            return describe(error, str(path))
        return UsageError(f"the query is wrong: {text}.", _REMEDY)
    return describe(error, str(path))


def _too_long(seconds: float) -> UsageError:
    return UsageError(f"the query took longer than {seconds:g} s.", "Narrow it, or allow more time.")


def _postgresql(database: Database, sql: str, limit: int, seconds: float) -> tuple[list[str], list[tuple[Any, ...]]]:
    import psycopg

    with database.read() as pooled:
        arguments = pooled.engine.dialect.create_connect_args(pooled.engine.url)[1]
    options = f"-c default_transaction_read_only=on -c statement_timeout={int(seconds * 1000)} -c timezone=UTC"
    given = f"{arguments.pop('options', '')} {options}".strip()
    try:
        # A session of its own, closed after one statement: whatever the query changes in it ends with it.
        with psycopg.connect(**arguments, options=given, connect_timeout=10, client_encoding="utf8") as connection:
            return _fetch(connection, sql, limit)
    except psycopg.Error as error:
        raise _postgresql_error(error, database.place, seconds) from error


def _fetch(connection: psycopg.Connection[Any], sql: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    connection.read_only = True
    # The first query takes the snapshot, after which a transaction cannot be made to write any more.
    connection.execute("SELECT 1")
    # A cursor's query can only be a SELECT, VALUES or WITH that reads; prepared, it can only be one statement.
    acting = postgresql.acting(connection, b"DECLARE answer NO SCROLL CURSOR FOR " + sql.encode())
    if acting is None:
        raise StoreError("the PostgreSQL server does not show what a query calls.", "Query without a proxy in between.")
    if acting:
        raise UsageError(f"the query calls {', '.join(acting)}, which may do something other than read.", _REMEDY)
    cursor = connection.cursor()
    cursor.execute("FETCH 0 FROM answer")
    if cursor.description is None:
        raise UsageError("the statement gives no rows.", _REMEDY)
    columns = [column.name for column in cursor.description]
    # One statement, for the time limit holds for each; its rows come as they are sent.
    with contextlib.closing(cursor.stream(f"FETCH {limit + 1} FROM answer".encode())) as sent:
        rows = _taken(sent, limit)
    connection.rollback()
    return columns, rows


def _postgresql_error(error: psycopg.Error, place: str, seconds: float) -> StoreError | UsageError:
    text = (error.diag.message_primary or str(error)).strip()
    code = error.sqlstate or ""
    if code == "57014":
        return _too_long(seconds)
    if code in ("25006", "25001") or "data-modifying" in text:
        return UsageError("the statement does something other than read.", _REMEDY)
    if "multiple commands" in text:
        return UsageError("the query has more than one statement.", _REMEDY)
    if code[:2] in ("42", "22", "0A", "54") or code == "08P01":  # the latter: a parameter such as $1
        return UsageError(f"the query is wrong: {text}.", _REMEDY)
    return describe(error, place)
