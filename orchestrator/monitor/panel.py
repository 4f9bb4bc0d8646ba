"""Lays the progress of a campaign out for a terminal of any size: counts, spend, best per model, sketches, news."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from swarm.orchestrator.console import clean, duration, number
from swarm.orchestrator.monitor.progress import TARGET_BITS, Line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from swarm.memory.front import Point
    from swarm.memory.records import Account
    from swarm.orchestrator.monitor.progress import Progress

MAX_WIDTH = 160
SKETCH_LINES = (8, 13)
"""Lines that a sketch with its title needs, and has use for."""
SKETCH_WIDTHS = (26, 44)
"""Columns that a sketch needs, and has use for."""
MAX_SKETCH_BITS = 9.0
"""Costlier configurations are no compression, and would squeeze the others into a corner of the sketch."""
MAX_PROPOSALS = 3
WIDTH_WITH_CONFIGURATIONS = 100
"""Columns from which the table has a place for configurations."""
MIN_LINES = 4
"""Lines of news that there has to be room for below anything else."""
MIN_KLD = 1e-6
"""The 16-bit run has a KLD of about nothing; what lies below is drawn on the floor."""
MARGIN = 8
"""Columns of the axis and its labels."""

_STYLES = {"good": "green", "bad": "red", "": ""}


def layout(progress: Progress, width: int, height: int, *, unicode: bool = True) -> RenderableType:
    """Everything about a campaign that fits into so many columns and lines; what matters most comes first."""
    width = min(width, MAX_WIDTH)
    parts: list[RenderableType] = [_line(text, width, "bold") for text in _wrapped(_title(progress), width)]
    parts.append(_bar(progress, width, unicode=unicode))
    parts += [_line(text, width, "dim") for text in _wrapped(_spend(progress), width)]
    if progress.failed:
        parts.append(_line("failed   " + _causes(progress), width, "red"))
    left = height - len(parts)
    models = [*progress.models, *(m for m in progress.per_model if m not in progress.models)]
    if models and left > len(models) + 2:
        parts += [Text(""), _models(progress, models, width)]
        left -= len(models) + 2
    if left >= SKETCH_LINES[0] + 2 + MIN_LINES:
        tall = max(SKETCH_LINES[0], min(SKETCH_LINES[1], left // 3))
        drawn = _sketches(progress, models, width, tall, unicode=unicode)
        if drawn:
            parts += [Text(""), *drawn]
            left -= len(drawn) + 1
    proposals = list(progress.proposals)[-MAX_PROPOSALS:] if left >= MAX_PROPOSALS + 2 + MIN_LINES else []
    if proposals:
        parts += [Text(""), _line("proposed", width, "dim"), *(_news(line, width) for line in proposals)]
        left -= len(proposals) + 2
    lines = list(progress.lines)[-(left - 2) :] if left > 2 else []
    if lines:
        parts += [Text(""), *(_news(line, width) for line in lines)]
    return Group(*parts)


def counts(progress: Progress) -> str:
    """Progress, rate and time left in one line."""
    return "  ".join(_counts(progress))


def _counts(progress: Progress) -> list[str]:
    parts = [f"trial {progress.done}/{progress.total}"]
    if progress.rate is not None:
        parts.append(f"{progress.rate:.1f}/s" if progress.rate >= 1 else f"{60 * progress.rate:.1f}/min")
    if progress.done < progress.total:
        parts.append(f"ETA {duration(progress.eta)}")
    parts.append(f"elapsed {duration(progress.elapsed)}")
    if progress.failed:
        parts.append(f"failed {progress.failed}")
    if progress.findings:
        parts.append(f"findings {len(progress.findings)}")
    return parts


def _causes(progress: Progress) -> str:
    """How many trials failed, by cause."""
    return ", ".join(f"{amount} {cause}" for cause, amount in progress.outcomes.most_common() if cause != "ok")


def _title(progress: Progress) -> list[str]:
    parts = [progress.name, *_counts(progress), f"({progress.phase})" if progress.phase else ""]
    return [part for part in parts if part]


def _bar(progress: Progress, width: int, *, unicode: bool) -> RenderableType:
    done = round(width * min(1.0, progress.done / max(1, progress.total)))
    full, empty = ("━", "─") if unicode else ("#", "-")
    return Text.assemble((full * done, "cyan"), (empty * (width - done), "dim"))


def _spend(progress: Progress) -> list[str]:
    spend = progress.spend
    if not spend:
        return []
    parts = [f"time {_of(spend['seconds'], duration)}", f"workers {duration(spend['worker_seconds'].spent)}"]
    tokens, usd = _of(spend["tokens"], "{:.0f}".format), _of(spend["usd"], "{:.4f}".format)
    parts.append(f"LLM {tokens} tokens, {usd} USD")
    return parts + ([f"running {progress.running}"] if progress.running else [])


def _of(account: Account, show: Callable[[float], str]) -> str:
    text = show(account.spent)
    return text if account.cap is None else f"{text} of {show(account.cap)}"


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts side by side, on as many lines as the width asks for."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += "   " + part
        else:
            lines.append(part)
    return lines


def _models(progress: Progress, models: Sequence[str], width: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), width=width)
    table.add_column("model", no_wrap=True, overflow="ellipsis", ratio=2)
    for heading in ("trials", "KLD", "bits"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= WIDTH_WITH_CONFIGURATIONS:
        table.add_column(f"best at <= {TARGET_BITS} bits/value", overflow="ellipsis", no_wrap=True, ratio=4)
    table.add_column("plateaus", overflow="ellipsis", no_wrap=True, ratio=2)
    for model in models:
        best = progress.best.get(model)
        cells = [number(best.kld, 3), f"{best.bits:.2f}"] if best else ["-", "-"]
        if width >= WIDTH_WITH_CONFIGURATIONS:
            cells.append(best.label if best else "-")
        standing = Text(
            ", ".join(progress.plateaus(model)) or "-", style="yellow" if progress.plateaus(model) else "dim"
        )
        table.add_row(Text(clean(model)), str(progress.per_model[model]), *cells, standing)
    return table


def _sketches(
    progress: Progress, models: Sequence[str], width: int, tall: int, *, unicode: bool
) -> list[RenderableType]:
    """Plots of the models side by side, as many as there is room for, each of so many lines."""
    marks = UNICODE if unicode else ASCII
    room = max(1, (width + 2) // (SKETCH_WIDTHS[0] + 2))
    shown = [model for model in models if progress.points.get(model)][:room]
    if not shown:
        return []
    each = min(SKETCH_WIDTHS[1], (width - 2 * (len(shown) - 1)) // len(shown))
    plots = []
    for model in shown:
        points, front = (
            [point for point in some if point[1] <= MAX_SKETCH_BITS]
            for some in (progress.points[model], progress.front(model))
        )
        lines = sketch(points, front, width=each, height=tall - 1, marks=marks)
        title = f"KLD by bits/value, {clean(model)}"
        plots.append([title if len(title) <= each else clean(model), *lines, *[""] * (tall - 1 - len(lines))])
    rows = []
    for number_, cells in enumerate(zip(*plots, strict=True)):
        text = Text("  ".join(cell[:each].ljust(each) for cell in cells).rstrip(), no_wrap=True, overflow="crop")
        if number_ == 0:
            text.stylize("dim")
        else:
            text.highlight_regex(f"[{marks.front}]", "bold cyan")
        rows.append(text)
    return list(rows)


def _news(line: Line, width: int) -> Text:
    style = _STYLES[line.mood] or ("dim" if line.kind in ("proposal", "phase") else "")
    return _line(line.text, width, style)


def _line(text: str, width: int, style: str) -> Text:
    return Text(Line("phase", text).cut(width), style=style, no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True)
class SketchMarks:
    """The characters of a sketch."""

    trial: str
    front: str
    across: str
    down: str
    corner: str


UNICODE = SketchMarks("·", "●", "─", "│", "└")
ASCII = SketchMarks(".", "o", "-", "|", "+")


def sketch(
    points: Sequence[Point],
    front: Sequence[Point],
    *,
    width: int,
    height: int,
    marks: SketchMarks = UNICODE,
) -> list[str]:
    """Points (KLD, bits per value) as lines of text: bits to the right, KLD upwards on a logarithmic scale.

    Args:
        points: all of them.
        front: those to stand out.
        width: characters per line, axis included.
        height: lines, axis and its labels included.
        marks: what to draw with.

    Returns:
        The lines; empty when there is nothing to draw or no room.
    """
    columns, rows = width - MARGIN, height - 2
    drawn = [*points, *front]
    if not drawn or columns < 8 or rows < 2:
        return []
    left, right = _span([bits for _, bits in drawn], 0.5)
    low, high = _span([_level(kld) for kld, _ in drawn], 0.1)
    grid = [[" "] * columns for _ in range(rows)]

    def draw(some: Sequence[Point], mark: str) -> None:
        for kld, bits in some:
            column = round((bits - left) / (right - left) * (columns - 1))
            row = round((high - _level(kld)) / (high - low) * (rows - 1))
            grid[row][column] = mark

    draw(points, marks.trial)
    draw(front, marks.front)
    labels = {0: _label(10**high), rows - 1: _label(10**low)}
    lines = [f"{labels.get(row, ''):>6} {marks.down}{''.join(cells)}".rstrip() for row, cells in enumerate(grid)]
    lines.append(" " * 7 + marks.corner + marks.across * columns)
    start, end = f"{left:.3g}", f"{right:.3g} bits"
    lines.append(" " * MARGIN + start + " " * max(1, columns - len(start) - len(end)) + end)
    return lines


def _level(kld: float) -> float:
    return log10(max(kld, MIN_KLD))


def _span(values: Sequence[float], min_width: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    gap = max(0.0, min_width - (high - low)) / 2
    return low - gap, high + gap


def _label(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}"
