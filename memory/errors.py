"""The errors of the shared memory, and what database drivers raise as one clear StoreError with its remedy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from swarm.kernels.errors import DiskFullError, SwarmError

_FULL = ("database or disk is full", "no space left on device", "could not extend file", "disk quota exceeded")
_DAMAGED = ("malformed", "file is not a database", "disk i/o error", "invalid page", "could not read block")
_LOCKED = ("database is locked", "database table is locked", "deadlock detected", "could not serialize", "lock timeout")
_READONLY = ("readonly database", "read-only transaction", "permission denied", "access denied")
_UNREACHABLE = ("unable to open", "connection", "server closed", "timeout expired", "password", 'database "', 'role "')


class StoreError(SwarmError):
    """The shared memory cannot be opened, read or written."""


class ForeignStoreError(StoreError):
    """The database belongs to something else, or is not a database."""


class OlderStoreError(StoreError):
    """The database was written by an older release, and was not to be written."""


class NewerStoreError(StoreError):
    """The database was written by a newer release."""


class LeaseLostError(StoreError):
    """A result came in under a lease that had expired and was taken over."""


class BudgetError(SwarmError):
    """A reservation that the budget does not cover."""


class StoreFullError(StoreError, DiskFullError):
    """The disk under the database is full; everything committed before is intact."""


class StoreBusyError(StoreError):
    """Another process held the database for longer than this one waits."""


class ConflictError(StoreError):
    """A row was refused by a unique, foreign-key or check constraint."""


class DuplicateTrialError(StoreError):
    """The campaign already has a trial of that number or fingerprint."""


def describe(error: BaseException, place: str) -> StoreError:
    """The StoreError that says what happened to the store at `place` and what to do."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    low = text.lower()
    if any(mark in low for mark in _FULL):
        return StoreFullError(
            f"no space is left for the store {place}.", "Free space and run `swarm resume`: what is stored is intact."
        )
    if any(mark in low for mark in _DAMAGED):
        return ForeignStoreError(
            f"the store {place} is damaged or not a database ({text}).",
            "Restore a backup, or check the disk; `swarm doctor` runs the integrity check.",
        )
    if any(mark in low for mark in _LOCKED):
        return StoreBusyError(
            f"the store {place} is locked by another process ({text}).",
            "Wait until it is done and try again; see who has the file open.",
        )
    if any(mark in low for mark in _READONLY):
        return StoreError(
            f"the store {place} cannot be written ({text}).",
            "Give yourself write permission on the database and its folder, or choose another --store.",
        )
    if any(mark in low for mark in _UNREACHABLE):
        return StoreError(
            f"the store {place} cannot be opened ({text}).", "Check the path or URL, the server and your permissions."
        )
    return StoreError(f"the store {place} failed: {text}.", "Run `swarm doctor`.")


@contextmanager
def translated(place: str, driver: type[Exception] = sqlite3.Error) -> Iterator[None]:
    """Raise the errors of SQLAlchemy and of the database's own driver inside as StoreError.

    Raises:
        ConflictError: a constraint refused a row; whoever knows what that means names it.
        StoreError: every other error of the database.
    """
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError  # whoever only catches these errors needs no database

    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"the store {place} refused a row ({error.orig}).", "Report this as a bug.") from error
    except (SQLAlchemyError, driver) as error:
        raise describe(error, place) from error
