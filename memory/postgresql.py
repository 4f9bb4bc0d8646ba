"""PostgreSQL as a store: engine and URL handling. Knows connections; knows no tables."""

from __future__ import annotations

from sqlalchemy import URL, Engine, create_engine

from swarm.memory.errors import StoreError

LOCK_TIMEOUT_MS = 60_000


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
