"""Failed calls: what they mean, how long to wait before the next attempt, and when to leave an endpoint alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from swarm.kernels.errors import SwarmError

BASE_DELAY = 0.5
"""Seconds that the first wait is bounded by; each further one by twice as many."""

MAX_DELAY = 20.0
"""Seconds that a call waits at most. A server that asks for more gets no further attempt; the breaker remembers it."""

MAX_RETRY_AFTER = 86_400.0
"""Seconds that a Retry-After header can ask for."""

FAILURES_TO_OPEN = 3
"""Failed calls in a row after which nobody is asked for a while."""
COOL_DOWN = 15.0
"""Seconds of the first such pause; each further one is twice as long."""
MAX_COOL_DOWN = 600.0
"""Seconds that an endpoint is left alone: at first, and at most after many openings."""


class CallError(SwarmError):
    """A call that gave no answer.

    Attributes:
        outcome: short word that is recorded with the call.
        retry: whether the same call may work a moment later.
        fatal: whether no later call can work in this campaign.
        retry_after: seconds that the server asked to wait.
        billed: whether the tokens may have been counted although no answer came.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        *,
        outcome: str = "error",
        retry: bool = False,
        fatal: bool = False,
        retry_after: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(problem, remedy)
        self.outcome = outcome
        self.retry = retry
        self.fatal = fatal
        self.retry_after = retry_after
        self.billed = billed


class ContextError(CallError):
    """The prompt is longer than the model's context: a shorter one may be answered."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy, outcome="context")


class BreakerOpenError(CallError):
    """No call is made: the endpoint failed too often and is left alone for a while."""


class AnswerError(SwarmError):
    """An answer that cannot be read as what was asked for."""


class CircuitBreaker:
    """Circuit breaker: closed, open for a growing time after three failures in a row, then half open for one call.

    A fatal failure (a refused key, an unknown model) leaves it dead. Safe between threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._failures = 0
        self._openings = 0
        self._until = 0.0
        self._trying = False
        self._dead = ""

    @property
    def state(self) -> Literal["closed", "open", "half-open", "dead"]:
        """What a call would meet now."""
        with self._lock:
            if self._dead:
                return "dead"
            if self._clock() < self._until:
                return "open"
            return "half-open" if self._openings else "closed"

    def enter(self) -> None:
        """Ask to make a call.

        Raises:
            BreakerOpenError: it is not made.
        """
        with self._lock:
            state = self.state
            if state == "dead":
                raise BreakerOpenError(self._dead, outcome="dead", fatal=True)
            if state == "open" or (state == "half-open" and self._trying):
                wait = max(0.0, self._until - self._clock())
                raise BreakerOpenError(f"the LLM endpoint is left alone for {wait:.0f} s.", outcome="breaker_open")
            self._trying = state == "half-open"

    def succeeded(self) -> None:
        """The call was answered."""
        with self._lock:
            self._failures = self._openings = 0
            self._trying = False

    def failed(self, error: CallError) -> None:
        """The call failed."""
        with self._lock:
            self._trying = False
            if error.fatal:
                self._dead = error.problem
                return
            self._failures += 1
            wait = error.retry_after or 0.0
            if self._failures >= FAILURES_TO_OPEN or self._openings:
                wait = max(wait, min(MAX_COOL_DOWN, COOL_DOWN * 2**self._openings))
                self._openings += 1
            self._until = max(self._until, self._clock() + wait)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None when it says nothing."""
    if not header:
        return None
    try:
        seconds = float(header.strip())
    except ValueError:
        try:
            moment = parsedate_to_datetime(header.strip())
        except (TypeError, ValueError):
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), MAX_RETRY_AFTER)
