"""Leaves an endpoint alone after repeated failures, and tries it again later with a single call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from swarm.agents.llm.errors import BreakerOpenError, CallError

State = Literal["closed", "open", "half-open", "dead"]

FAILURES = 3
COOL_DOWN = 15.0
LONGEST = 600.0


class Breaker:
    """Circuit breaker: closed, open for a growing time after three failures in a row, then half open for one call.

    A fatal failure (a refused key, an unknown model) leaves it dead. Safe between threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._openings = 0
        self._until = 0.0
        self._trying = False
        self._dead = ""

    @property
    def state(self) -> State:
        """What a call would meet now."""
        with self._lock:
            return self._state()

    def _state(self) -> State:
        if self._dead:
            return "dead"
        if self._failures < FAILURES and self._clock() >= self._until:
            return "closed" if not self._openings else "half-open"
        return "half-open" if self._clock() >= self._until else "open"

    def enter(self) -> None:
        """Ask to make a call.

        Raises:
            BreakerOpenError: it is not made.
        """
        with self._lock:
            state = self._state()
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
            if self._failures >= FAILURES or self._openings:
                wait = max(wait, min(LONGEST, COOL_DOWN * 2**self._openings))
                self._openings += 1
            self._until = max(self._until, self._clock() + wait)
