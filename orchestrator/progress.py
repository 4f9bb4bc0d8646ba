"""Shows a running campaign: a live view in a terminal, plain lines in a pipe. Knows the board, not the campaign."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from swarm.memory.records import Finding, TrialRecord
from swarm.orchestrator.board import TARGET_BITS, Board
from swarm.orchestrator.console import clean, console, duration, number

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

PLAIN_EVERY = 10.0
REFRESH_PER_SECOND = 4


class View(ABC):
    """What a campaign tells while it runs. Use as a context manager."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def phase(self, text: str) -> None:
        """Say what is happening besides trials; empty for nothing."""
        if text != self.board.phase:
            self.board.phase = text
            if text:
                self.tell(text)

    def finished(self, record: TrialRecord) -> None:
        """A trial ended."""
        self.board.phase = ""
        is_best = self.board.finish(record)
        if record.state != "complete":
            self.tell(f"trial {record.id} {record.outcome or record.state}: {record.message}")
        elif is_best:
            best = self.board.best[record.spec.model]
            self.tell(
                f"best {record.spec.model} at <= {TARGET_BITS} bits: KLD {number(best.kld, 3)} at "
                f"{best.bits:.2f} bits, {best.label} (trial {record.id}, {record.proposer})"
            )
        self.tick()

    def found(self, findings: Sequence[Finding]) -> None:
        """The agents looked at the results."""
        for finding in findings:
            if self.board.find(finding):
                self.tell(f"{finding.kind} [{finding.status}] {finding.statement}")

    @abstractmethod
    def tell(self, text: str) -> None:
        """Show one line of news."""

    @abstractmethod
    def tick(self) -> None:
        """Progress was made."""


class PlainView(View):
    """Lines for a pipe or a log file."""

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._last = time.monotonic()

    def tell(self, text: str) -> None:
        """Print the line."""
        console().print(clean(text).replace("\n", " "), markup=False)

    def tick(self) -> None:
        """Print the counts every few seconds, and at the end."""
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY or self.board.done == self.board.total:
            self._last = now
            self.tell(_counts(self.board))


class LiveView(View):
    """A panel that stays in place in a terminal."""

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(
            get_renderable=self._render, console=console(), refresh_per_second=REFRESH_PER_SECOND, transient=True
        )
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
        for line in self.board.feed:
            console().print(line, markup=False)
        console().print(_counts(self.board), markup=False)

    def tell(self, text: str) -> None:
        """Add the line to the feed."""
        self.board.feed.append(clean(text).replace("\n", " "))

    def tick(self) -> None:
        """The refresh thread draws."""

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        board = self.board
        width = min(console().width, 100)
        parts: list[Any] = [
            Text(_counts(board) + (f"  ({board.phase})" if board.phase else ""), style="bold"),
            ProgressBar(total=board.total, completed=board.done, width=width),
        ]
        if board.models:
            parts.append(self._models())
        parts += [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in board.feed]
        return Group(*parts)

    def _models(self) -> RenderableType:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
        table.add_column("model", no_wrap=True)
        for heading in ("trials", "KLD", "bits"):
            table.add_column(heading, justify="right")
        table.add_column(f"best at <= {TARGET_BITS} bits/value", overflow="ellipsis", no_wrap=True)
        for model in self.board.models:
            best = self.board.best.get(model)
            cells = (number(best.kld, 3), f"{best.bits:.2f}", best.label) if best else ("-", "-", "-")
            table.add_row(model, str(self.board.per_model[model]), *cells)
        return table


def view(board: Board) -> View:
    """The view that suits standard output."""
    return LiveView(board) if console().is_terminal and not console().is_dumb_terminal else PlainView(board)


def _counts(board: Board) -> str:
    parts = [f"trial {board.done}/{board.total}"]
    if board.rate is not None:
        parts.append(f"{board.rate:.1f}/s" if board.rate >= 1 else f"{60 * board.rate:.1f}/min")
    if board.done < board.total:
        parts.append(f"ETA {duration(board.eta)}")
    parts.append(f"elapsed {duration(board.elapsed)}")
    if board.failed:
        parts.append(f"failed {board.failed}")
    if board.findings:
        parts.append(f"findings {len(board.findings)}")
    return "  ".join(parts)
