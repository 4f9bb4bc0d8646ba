"""Shows a campaign while it runs: live in a terminal, plain lines in a pipe. Knows the board, not the campaign."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from swarm.memory.records import Finding, TrialRecord
from swarm.orchestrator.console import console
from swarm.orchestrator.monitor.board import Board
from swarm.orchestrator.monitor.news import News

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

PLAIN_EVERY = 10.0
PLAIN_WIDTH = 140
"""Characters of a line in a pipe."""
REFRESH_PER_SECOND = 2
LOOK_EVERY = 1.0


class View(ABC):
    """What is told of a campaign. Use as a context manager.

    Args:
        board: what is shown.
        look: brings the board up to date with the store; called about once per second.
    """

    def __init__(self, board: Board, look: Callable[[], None] | None = None) -> None:
        self.board = board
        self._look = look
        self._looked = 0.0
        board.hear = self._hear

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def phase(self, text: str) -> None:
        """Say what is happening besides trials; empty for nothing."""
        if text != self.board.phase:
            self.board.phase = text
            if text:
                self.board.tell(News("phase", text))

    def finished(self, record: TrialRecord) -> None:
        """A trial ended."""
        self.board.phase = ""
        self.board.put(record)
        self.tick()

    def found(self, findings: Sequence[Finding]) -> None:
        """The agents looked at the results."""
        for finding in findings:
            self.board.find(finding)

    def tell(self, text: str) -> None:
        """Show one line of news."""
        self.board.tell(News("phase", text))

    def tick(self) -> None:
        """Progress was made, or time has passed."""
        now = time.monotonic()
        if self._look is not None and now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look()
        self._show()

    @abstractmethod
    def _hear(self, item: News) -> None:
        """A piece of news came in."""

    @abstractmethod
    def _show(self) -> None:
        """Counts may have changed."""


class PlainView(View):
    """Lines for a pipe or a log file. Of proposals, those with a prediction."""

    def __init__(self, board: Board, look: Callable[[], None] | None = None) -> None:
        super().__init__(board, look)
        self._last = time.monotonic()
        self._said = ""

    def _hear(self, item: News) -> None:
        if item.kind != "proposal":
            self._say(item.line(PLAIN_WIDTH))
        elif ", predicts " in item.text:
            self._say(News("proposal", f"trial {item.text}").line(PLAIN_WIDTH))

    def _show(self) -> None:
        """Print the counts every few seconds, and at the end."""
        now = time.monotonic()
        over = self.board.done == self.board.total
        if now - self._last >= PLAIN_EVERY or over:
            from swarm.orchestrator.monitor.panel import counts

            self._last = now
            text = counts(self.board)
            if not over or not self._said.startswith(text.split("  ")[0] + " "):
                self._say(text)
            self._said = text

    def _say(self, line: str) -> None:
        console().print(line, markup=False)


class LiveView(View):
    """The whole screen of a terminal, drawn anew a few times per second; the screen before it comes back after it."""

    def __init__(self, board: Board, look: Callable[[], None] | None = None) -> None:
        super().__init__(board, look)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(
            get_renderable=self._render,
            console=console(),
            refresh_per_second=REFRESH_PER_SECOND,
            screen=True,
            vertical_overflow="crop",
        )
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
        from swarm.orchestrator.monitor.panel import counts

        width = console().width
        for item in [item for item in self.board.feed if item.kind != "phase"][-KEPT_AFTER:]:
            console().print(item.line(width), markup=False, style="dim")
        console().print(counts(self.board), markup=False)

    def _hear(self, item: News) -> None:
        """The refresh thread draws."""

    def _show(self) -> None:
        """The refresh thread draws."""

    def _render(self) -> RenderableType:
        from swarm.orchestrator.monitor.panel import layout

        size = console().size
        return layout(self.board, size.width, size.height, unicode=console().encoding.startswith("utf"))


KEPT_AFTER = 12
"""News that stay on the terminal when the live view is over."""


def view(board: Board, look: Callable[[], None] | None = None) -> View:
    """The view that suits standard output."""
    shown = LiveView if console().is_terminal and not console().is_dumb_terminal else PlainView
    return shown(board, look)
