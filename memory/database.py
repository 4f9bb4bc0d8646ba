"""One database, whichever it is: transactions, batches and the rule of one writer per process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, RootTransaction, make_url
from sqlalchemy.exc import ArgumentError

from swarm.kernels.errors import UsageError
from swarm.memory import postgresql, sqlite
from swarm.memory.errors import StoreError, StoreFullError, translated


class Database:
    """Connections to one store. Every operation of the store runs in `read()` or `write()`."""

    def __init__(self, engine: Engine, place: str, path: Path | None, *, readonly: bool) -> None:
        self.engine = engine
        self.place = place
        self.path = path
        self.readonly = readonly
        self._lock = threading.RLock()
        self._batch: Connection | None = None
        self._batch_thread = 0
        self._pid = os.getpid()
        self.losses = 0  # batches that the database took back: caches of their rows are void
        self._reader = engine if path else engine.execution_options(isolation_level="REPEATABLE READ")

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @property
    def in_batch(self) -> bool:
        """Whether the calling thread is inside a batch."""
        return self._batch is not None and self._batch_thread == threading.get_ident()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the store; inside a batch of this thread it sees the batch's own writes."""
        self._after_fork()
        batch = self._batch if self.in_batch else None
        with self._translated():
            if batch is not None:
                yield batch
            else:
                with self._reader.connect() as connection:
                    yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One atomic operation: a transaction of its own, or a savepoint of the running batch.

        Raises:
            StoreError: the store is open for reading only, full, locked or damaged.
        """
        self._writable()
        with self._lock:
            if self._batch is not None:
                with self._translated(), _savepoint(self._batch):
                    yield self._batch
            else:
                with self._translated(), self._writer() as connection, connection.begin():
                    yield connection

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Commit the writes of this block together, for speed: they are durable when the block is left.

        Every operation inside stays atomic on its own: one that fails takes back itself alone, and whatever
        leaves the block, also as an exception, the operations that succeeded are committed.
        """
        self._writable()
        with self._lock:
            if self._batch is not None:
                yield
                return
            with self._translated(), self._writer() as connection:
                transaction = connection.begin()
                self._batch, self._batch_thread = connection, threading.get_ident()
                try:
                    yield
                finally:
                    self._batch, self._batch_thread = None, 0
                    self._commit(connection, transaction)

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _translated(self) -> AbstractContextManager[None]:
        # Locks and savepoints are the driver's own calls, so its errors come unwrapped.
        dbapi: Any = self.engine.dialect.dbapi
        return translated(self.place, dbapi.Error)

    def _writable(self) -> None:
        self._after_fork()
        if self.readonly:
            raise StoreError(f"the store {self.place} is open for reading only.", "Open it without readonly.")

    def _writer(self) -> Connection:
        return self.engine.connect().execution_options(swarm_write=True)

    def _commit(self, connection: Connection, transaction: RootTransaction) -> None:
        self.losses += 1  # until it is known that nothing was lost
        # On a full disk SQLite may take back the whole transaction by itself; a commit then says nothing.
        if self.path and not connection.connection.in_transaction:
            transaction.close()
            raise StoreFullError(
                f"the store {self.place} took back a batch of writes.", "Free space and run `swarm resume`."
            )
        transaction.commit()
        self.losses -= 1

    def _after_fork(self) -> None:
        # A child must not talk over its parent's connections: it forgets them without closing and opens its own.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._lock = threading.RLock()
            self._batch, self._batch_thread = None, 0
            self.engine.dispose(close=False)


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    # By the driver: SQLAlchemy's own savepoints cost more than the statements between them.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("SAVEPOINT operation")
    try:
        yield
    except BaseException:
        # A database that took back the whole transaction has no savepoint left: `_commit` will tell.
        with suppress(Exception):
            driver.execute("ROLLBACK TO SAVEPOINT operation")
            driver.execute("RELEASE SAVEPOINT operation")
        raise
    driver.execute("RELEASE SAVEPOINT operation")


def locate(url_or_path: str | os.PathLike[str]) -> tuple[URL | None, Path | None]:
    """What a --store value points to: a PostgreSQL URL, or the real path of a SQLite file.

    Raises:
        UsageError: an URL of a database that we do not support.
        StoreError: a path that cannot be used.
    """
    text = os.fspath(url_or_path)
    if "://" not in text:
        return None, sqlite.resolve(text)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise UsageError(
            "the store URL cannot be understood.", "Example: postgresql+psycopg://user@host/name."
        ) from error
    kind = url.get_backend_name()
    if kind == "sqlite":
        if not url.database or url.database == ":memory:":
            raise UsageError("the store must be a file.", "Example: --store swarm.db.")
        return None, sqlite.resolve(url.database)
    if kind not in ("postgresql", "postgres"):
        raise UsageError(f"a store on {kind} is not supported.", "Use a SQLite file or postgresql+psycopg://...")
    return url.set(drivername="postgresql+psycopg"), None


def connect(url_or_path: str | os.PathLike[str], *, mode: str) -> Database:
    """A database in mode `ro` (never writes), `rw` (must exist) or `rwc` (may be made)."""
    url, path = locate(url_or_path)
    if path is not None:
        actual = sqlite.readonly_mode(path) if mode == "ro" else mode
        return Database(sqlite.engine(path, mode=actual), str(path), path, readonly=mode == "ro")
    if url is None:
        raise UsageError("no store was given.", "Give --store PATH or URL.")
    engine = postgresql.engine(url, readonly=mode == "ro")
    return Database(engine, url.render_as_string(hide_password=True), None, readonly=mode == "ro")
