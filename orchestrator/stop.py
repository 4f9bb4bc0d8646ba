"""Ctrl-C and SIGTERM as a request that the campaign can honour: once to stop, twice to stop now."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """While it is entered, signals are counted instead of raised; `on_request` runs in the handler.

    A handler that raised could do so between a write and its bookkeeping; so nothing is raised, and whoever waits
    is woken.
    """

    def __init__(self, on_request: Callable[[], None] = lambda: None) -> None:
        self._on_request = on_request
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

    def request(self, signum: int = signal.SIGINT) -> None:
        """Ask to stop, as a signal does."""
        self.count += 1
        self.signum = signum
        self._on_request()

    def __enter__(self) -> Self:
        for signum in SIGNALS:
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self.request(signum)


def interrupt_on_sigterm() -> None:
    """Let SIGTERM end preparations as Ctrl-C does."""

    def handle(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)
