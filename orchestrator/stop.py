"""Ctrl-C and SIGTERM: at first they end preparations at once, later they are requests that the campaign honours."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Handles the signals while it is entered: raises KeyboardInterrupt, or counts once `defer` was called.

    A handler that raises can do so between a write and its bookkeeping; so while a campaign runs, and until its
    workers are down, nothing is raised and whoever waits is woken.
    """

    def __init__(self) -> None:
        self._wake: Callable[[], None] | None = None
        self._previous: dict[int, Any] = {}
        self.count = 0
        self.signum = 0

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def urgent(self) -> bool:
        """Whether to stop without waiting for anything."""
        return self.count > 1

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that was stopped by that signal."""
        return 128 + self.signum if self.signum else 0

    def defer(self, wake: Callable[[], None]) -> None:
        """From now on count signals and call `wake` in their handler instead of raising."""
        self._wake = wake

    def arm(self) -> None:
        """Take the signals; again after Ray has come up, which takes SIGTERM for itself. Main thread only."""
        for signum in SIGNALS:
            signal.signal(signum, self._handle)

    def __enter__(self) -> Self:
        self._previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.arm()
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.signum = signum
        if self._wake is None:
            raise KeyboardInterrupt
        self._wake()
