"""SQLite as a store: engine, pragmas, locking, file checks."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from swarm.memory.errors import ForeignStoreError, StoreError

APPLICATION_ID = 0x6B765357
"""`kvSW` in the file's header says that a database is one of ours."""

LOCK_TIMEOUT = 60.0
"""Seconds that a write waits for the other processes' writes."""

_MAGIC = b"SQLite format 3\x00"


def resolve(path: str | os.PathLike[str]) -> Path:
    """The real path of a database: one file must have one path, as SQLite derives the WAL's name from it.

    Raises:
        StoreError: a loop of symbolic links, a folder, or a missing parent folder.
    """
    given = Path(path).expanduser()
    try:
        real = given.resolve()
        is_directory = real.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(
            f"the store path {str(path)!r} cannot be resolved ({error}).", "Give another --store."
        ) from error
    if is_directory:
        raise StoreError(f"the store path {real} is a folder.", "Give the path of a file, e.g. --store swarm.db.")
    if not real.parent.is_dir():
        raise StoreError(
            f"the folder {real.parent} of the store does not exist.", "Create it, or give another --store."
        )
    return real


def is_ours(path: Path) -> bool:
    """True when the file is a database of ours, False when it is missing or empty; opens nothing.

    Raises:
        ForeignStoreError: the file is something else, or cut short.
        StoreError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"the store {path} cannot be read ({error.strerror}).", "Give yourself read permission."
        ) from error
    if not header:
        return False
    remedy = "Give another path to --store, or move that file away."
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise ForeignStoreError(f"{path} is not a database.", remedy)
    (application_id,) = struct.unpack(">I", header[68:72])
    (page_size,) = struct.unpack(">H", header[16:18])
    (pages,) = struct.unpack(">I", header[28:32])
    if application_id != APPLICATION_ID and (application_id or pages > 1):
        raise ForeignStoreError(f"{path} is a database of another program.", remedy)
    counter, valid_for = header[24:28], header[92:96]
    if counter == valid_for and size < pages * (65536 if page_size == 1 else page_size):
        raise ForeignStoreError(f"the store {path} is cut short: {size} bytes are left of it.", "Restore a backup.")
    return True


def uri(path: Path, mode: str) -> str:
    """A `file:` URI that SQLite opens in the given mode: ro, rw, rwc, or immutable (no side files at all)."""
    options = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    return f"file:{quote(str(path))}?{options}"


def readonly_mode(path: Path) -> str:
    """`ro`, or `immutable` where SQLite could not make its shared-memory file and nobody can be writing.

    A log without content says nothing that is not in the database.

    Raises:
        StoreError: a log with content lies where it cannot be read with its shared memory.
    """
    if os.access(path.parent, os.W_OK):
        return "ro"
    log, shared = (path.with_name(path.name + ending) for ending in ("-wal", "-shm"))
    if not log.exists() or not log.stat().st_size:
        return "immutable"
    if not shared.exists():
        raise StoreError(
            f"the store {path} was not closed, and its log cannot be read in a folder that cannot be written.",
            "Copy the database and its -wal file to another folder, and open it there.",
        )
    return "ro"


def engine(path: Path, *, mode: str) -> Engine:
    """An engine on the file; every connection is in WAL's terms, checks foreign keys, and waits its turn."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri(path, mode), uri=True, timeout=0.2, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=200")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA cache_size=-32768")
        cursor.close()
        return connection

    made = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=4, max_overflow=28)

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        # A writing transaction takes the write lock at once, so that it never has to be undone.
        immediate = connection.get_execution_options().get("swarm_write")
        raw: Any = connection.connection.dbapi_connection
        when_unlocked(lambda: raw.execute("BEGIN IMMEDIATE" if immediate else "BEGIN"))

    return made


def when_unlocked(action: Callable[[], object]) -> None:
    """Do something that needs a lock, again and again until it is free.

    SQLite's own busy handler backs off to 100 ms steps and starves whoever waits longest: short random steps are
    fairer between many processes.

    Raises:
        sqlite3.OperationalError: it was not free within `LOCK_TIMEOUT`, or something else failed.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0005, 0.005))
        else:
            return


def backup(source: Path, target: Path) -> None:
    """Copy a live database to `target` through a temporary file beside it, and check the copy.

    Raises:
        StoreError: the copy cannot be made or is not sound.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        origin = sqlite3.connect(uri(source, "ro"), uri=True)
        copy: Any = sqlite3.connect(temporary)
        try:
            origin.backup(copy, pages=4096)
            copy.execute("PRAGMA journal_mode=DELETE")
            verdict = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
        finally:
            copy.close()
            origin.close()
        if verdict != "ok":
            raise StoreError(f"the backup of {source} is not sound ({verdict}).", "Run `swarm doctor`.")
        temporary.replace(target)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"the backup to {target} failed ({error}).", "Check the space and permissions there."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
