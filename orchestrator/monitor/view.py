"""Shows a campaign while it runs: live in a terminal, plain lines in a pipe, a bar in a notebook."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from swarm.orchestrator.console import console, duration
from swarm.orchestrator.monitor.events import CampaignEvent, EventReader, PhaseChanged
from swarm.orchestrator.monitor.panel import counts, layout
from swarm.orchestrator.monitor.progress import Line, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store

COUNTS_EVERY = 10.0
"""Seconds between two lines of counts in a pipe."""
PLAIN_WIDTH = 140
"""Characters of a line in a pipe."""
REFRESH_PER_SECOND = 2
READ_EVERY = 1.0
"""Seconds between two looks into the store of a campaign that another process drives."""
QUIET = 45.0
"""Seconds without any change after which a driver that is said to run may be gone."""
LINES_AFTER = 12
"""Lines that stay on the terminal when the live view is over."""


class CampaignMonitor(ABC):
    """Is told the events of a campaign. Use as a context manager.

    Args:
        progress: what the events add up to.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    @abstractmethod
    def show(self, event: CampaignEvent) -> None:
        """Something happened."""


class PlainMonitor(CampaignMonitor):
    """Lines for a pipe or a log file. Of proposals, those with a prediction."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress)
        self._counted = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        self._say(counts(self.progress))

    def show(self, event: CampaignEvent) -> None:
        """Print the line of an event, and the counts every few seconds."""
        line = self.progress.apply(event)
        if line is not None and line.kind != "proposal":
            self._say(line.cut(PLAIN_WIDTH))
        elif line is not None and ", predicts " in line.text:
            self._say(Line("proposal", f"trial {line.text}").cut(PLAIN_WIDTH))
        if time.monotonic() - self._counted >= COUNTS_EVERY:
            self._counted = time.monotonic()
            self._say(counts(self.progress))

    def _say(self, line: str) -> None:
        console().print(line, markup=False)


class LiveMonitor(CampaignMonitor):
    """The whole screen of a terminal, drawn anew a few times per second; the screen before it comes back after it."""

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
        self._live.stop()
        for line in [line for line in self.progress.lines if line.kind != "phase"][-LINES_AFTER:]:
            console().print(line.cut(console().width), markup=False, style="dim")
        console().print(counts(self.progress), markup=False)

    def show(self, event: CampaignEvent) -> None:
        """Take an event in; the refresh thread draws."""
        self.progress.apply(event)

    def _render(self) -> RenderableType:
        size = console().size
        return layout(self.progress, size.width, size.height, unicode=console().encoding.startswith("utf"))


class BarMonitor(CampaignMonitor):
    """A progress bar on standard error, in a terminal or a notebook; nothing anywhere else."""

    def __init__(self, *, enabled: bool = True) -> None:
        super().__init__(Progress())
        self._enabled = enabled

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        err = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Bar(*columns, console=err, disable=not (self._enabled and (err.is_terminal or err.is_jupyter)))
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def show(self, event: CampaignEvent) -> None:
        """Move the bar."""
        self.progress.apply(event)
        progress = self.progress
        self._bar.update(
            self._task, description=progress.phase or progress.name, completed=progress.done, total=progress.total
        )


def monitor(began: float | None = None) -> CampaignMonitor:
    """The monitor that suits standard output; `began` is when this run began, in seconds since the epoch."""
    kind = LiveMonitor if console().is_terminal and not console().is_dumb_terminal else PlainMonitor
    return kind(Progress(time.time() if began is None else began))


def follow(store: Store, campaign: CampaignRecord, defer: Callable[[Callable[[], None]], None]) -> None:
    """Show a campaign that another process drives, until it is over or a stop is asked for; it does not notice.

    Args:
        store: where the campaign is; only read.
        campaign: which campaign.
        defer: is given what ends the watching.
    """
    reader, over = EventReader(store, campaign.id), threading.Event()
    defer(over.set)
    changed = time.monotonic()
    with monitor(time.time() - store.ledger.totals(campaign.id)["seconds"].spent) as shown:
        for event in reader.open():
            shown.show(event)
        while not over.wait(READ_EVERY) and store.campaigns.get(campaign.id).state == "running":
            events = reader.read()
            changed = time.monotonic() if events else changed
            quiet = time.monotonic() - changed
            silent = f"nothing new for {duration(quiet)}: is it still driven?" if quiet > QUIET else ""
            for event in (*events, PhaseChanged(silent)):
                shown.show(event)
        for event in reader.read():
            shown.show(event)
