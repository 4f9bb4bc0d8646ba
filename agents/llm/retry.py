"""How long to wait before a call is tried again: back-off with jitter, or what the server asks for."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BASE = 0.5
LONGEST = 20.0
"""A server that asks for more is not waited for: the caller gives up and the breaker remembers."""


def delay(attempt: int, rng: random.Random) -> float:
    """Seconds before try number `attempt` + 1: uniform up to a doubling bound (full jitter)."""
    return rng.uniform(0, min(LONGEST, BASE * 2**attempt))


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None when it says nothing."""
    if not header:
        return None
    text = header.strip()
    try:
        return min(max(0.0, float(text)), 86_400.0)
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - (now or datetime.now(UTC))).total_seconds()), 86_400.0)
