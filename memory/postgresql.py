"""PostgreSQL as a store: its engine, and what a query would call before any of it runs.

A transaction that cannot write still lets functions act: end other sessions, write the server's files, read them. All
of these are declared volatile, and the plan that the server is about to run names every function: the plan decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine

from swarm.memory.errors import StoreError

if TYPE_CHECKING:
    import psycopg

LOCK_TIMEOUT_MS = 60_000

_CALLED = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)")
# Volatile because their answer changes, not because they do something.
_HARMLESS = (
    *("random", "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp", "timeofday", "pg_sleep"),
    *("pg_sleep_for", "pg_sleep_until", "pg_column_size", "pg_relation_size", "pg_table_size", "pg_indexes_size"),
    *("pg_total_relation_size", "pg_database_size"),
)
_SHOW = "SELECT set_config('client_min_messages', 'log', true), set_config('debug_print_plan', 'on', true)"
_QUIET = "SELECT set_config('log_min_messages', 'panic', true) WHERE current_setting('is_superuser') = 'on'"
_HIDE = "SELECT set_config('client_min_messages', 'error', true), set_config('debug_print_plan', 'off', true)"


def engine(url: URL, *, readonly: bool) -> Engine:
    """An engine on the server; every session is in UTC, and read-only where that is asked.

    Raises:
        StoreError: the driver is not installed.
    """
    settings = {
        "timezone": "UTC",
        "lock_timeout": LOCK_TIMEOUT_MS,
        "default_transaction_read_only": "on" if readonly else "off",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    given = url.query.get("options", "")
    options = f"{given if isinstance(given, str) else ' '.join(given)} {options}".strip()
    try:
        return create_engine(
            url.difference_update_query(["options"]),
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=28,
            connect_args={
                "options": options,
                "client_encoding": "utf8",
                "connect_timeout": 10,
                "application_name": "kv-swarm",
            },
        )
    except ModuleNotFoundError as error:
        raise StoreError(
            "PostgreSQL stores need the psycopg package, which is not installed.",
            "Install it: pip install 'kv-swarm[postgresql]'.",
        ) from error


def acting(connection: psycopg.Connection[Any], declaration: bytes) -> list[str] | None:
    """Declare a cursor and name the functions in its plan that may do something; None when no plan was shown.

    Args:
        connection: in a transaction.
        declaration: the DECLARE statement; its query is planned and not started.
    """
    plans: list[str] = []
    connection.execute(_QUIET)  # keeps the plan out of the server's log where that is allowed
    connection.execute(_SHOW)

    def collect(message: psycopg.errors.Diagnostic) -> None:
        plans.append(message.message_detail or "")

    connection.add_notice_handler(collect)
    try:
        connection.execute(declaration, prepare=True)
    finally:
        connection.remove_notice_handler(collect)
    connection.execute(_HIDE)
    if not any(plans):
        return None
    called = sorted({int(oid) for plan in plans for oid in _CALLED.findall(plan)})
    rows = connection.execute(
        "SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE oid = ANY(%s::oid[]) AND provolatile = 'v' "
        "AND NOT (pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s)) ORDER BY 1",
        (called, list(_HARMLESS)),
    )
    return [row[0] for row in rows]
