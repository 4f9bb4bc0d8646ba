"""Documented SQL views for the common questions. Knows SQL; runs none for users."""

from __future__ import annotations

from sqlalchemy import Connection


def drop(connection: Connection) -> None:
    """Remove all views, so that tables can change."""


def create(connection: Connection) -> None:
    """Make all views."""
