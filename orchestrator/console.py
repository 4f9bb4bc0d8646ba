"""What the commands print: tables, JSON, plain lines in a pipe, bars of progress, and one line per error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class Column:
    """One column of a listing: which key of a row it shows, under which heading, and how.

    `digits` makes it a column of numbers with so many significant digits, aligned at their right end.
    """

    key: str
    heading: str = ""
    show: Callable[[Any], str] | None = None
    digits: int | None = None
    right: bool = False

    @property
    def justify(self) -> Literal["left", "right"]:
        """At which end its cells are aligned."""
        return "left" if self.digits is None and not self.right else "right"

    def cell(self, row: Mapping[str, Any]) -> str:
        """What stands in a row's cell, on one line; `-` for a missing value."""
        value = row.get(self.key)
        if value is None:
            return "-"
        text = self.show(value) if self.show else str(value) if self.digits is None else number(value, self.digits)
        return clean(text).replace("\n", " ")


@cache
def console() -> Console:
    """The console on standard output; rich honours NO_COLOR and TERM itself."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def notes() -> Console:
    """The console on standard error: what is happening, never a result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def clean(text: str) -> str:
    """Text from the store made safe to print: control characters (terminal sequences too) become `?`."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def number(value: Any, digits: int = 4) -> str:
    """A number for people, `-` for a missing one."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def rate(value: float) -> str:
    """A rate or a time for people: whole numbers from 100 on, three digits below."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Seconds as `45s`, `3m20s` or `2h05m`; `-` for unknown."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def say(text: str = "", style: str | None = None) -> None:
    """Print a line of a result for people."""
    console().print(clean(text), style=style, markup=False)


def note(text: str) -> None:
    """Tell on standard error what is happening."""
    notes().print(clean(text), style="dim", markup=False)


def emit_json(value: Any) -> None:
    """Print a value as JSON: indented for a person at a terminal, one line otherwise."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def listing(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, as_json: bool = False, empty: str = "Nothing yet."
) -> None:
    """Print rows as JSON (every key), as a table in a terminal, or as aligned plain lines in a pipe.

    Args:
        rows: mappings; keys that no column shows appear in the JSON only.
        columns: what the table shows, in order.
        as_json: print JSON.
        empty: said instead of an empty table.
    """
    if as_json:
        emit_json(list(rows))
        return
    if not rows:
        say(empty)
        return
    headings = [column.heading or column.key for column in columns]
    cells = [[column.cell(row) for column in columns] for row in rows]
    if console().is_terminal:
        _rich_table(headings, cells, columns)
    else:
        _plain_table(headings, cells, columns)


def _rich_table(headings: list[str], cells: list[list[str]], columns: Sequence[Column]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading, column in zip(headings, columns, strict=True):
        table.add_column(heading, justify=column.justify, overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    console().print(table, soft_wrap=False)


def _plain_table(headings: list[str], cells: list[list[str]], columns: Sequence[Column]) -> None:
    lines = [headings, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        parts = [
            text.rjust(width) if column.justify == "right" else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        sys.stdout.write("  ".join(parts).rstrip() + "\n")


class Conversion:
    """Shows how a model is converted the first time it is used.

    A progress bar per stage in a terminal, one line per stage in a pipe; nothing when there is nothing to do.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._stage = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` bytes of a stage are through."""
        if not notes().is_terminal:
            if stage != self._stage:
                note(f"{self._model}: {stage} ({total / 2**20:.0f} MiB) ...")
            self._stage = stage
            return
        if self._bar is None:
            from rich.progress import DownloadColumn, Progress

            self._bar = Progress(*Progress.get_default_columns(), DownloadColumn(), console=notes(), transient=True)
            self._bar.start()
        if stage != self._stage or self._task is None:
            self._stage = stage
            self._task = self._bar.add_task(f"{self._model}: {stage}", total=total)
        self._bar.update(self._task, completed=done)


def fail(problem: str, remedy: str, code: int) -> NoReturn:
    """End the program: one line on standard error, and the exit code."""
    line = " ".join(clean(f"error: {problem} {remedy}").split())
    sys.stderr.write(line + "\n")
    sys.exit(code)


def fail_with(error: BaseException) -> NoReturn:
    """End the program with the line that this error deserves.

    What nobody expected is a defect of ours: it says so in one line; SWARM_DEBUG=1 shows the traceback.
    """
    if os.environ.get("SWARM_DEBUG"):
        raise error
    if isinstance(error, SwarmError):
        fail(error.problem, error.remedy, error.exit_code)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror}.", "Check the path, its permissions and the free space.", 1)
    if isinstance(error, MemoryError):
        fail("out of memory.", "Run with fewer --workers or a shorter --context.", 1)
    fail(
        f"unexpected {type(error).__name__}: {error}.",
        "This is a defect of swarm; run again with SWARM_DEBUG=1 for the traceback and report it.",
        1,
    )
