"""Lays a board out for a terminal of any size: counts, spend, best per model, Pareto sketches, the agents' feed.

Knows the board and rich; knows no store and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from swarm.orchestrator.console import clean, duration, number
from swarm.orchestrator.monitor.news import TARGET_BITS, News
from swarm.orchestrator.sketch import ASCII, UNICODE, sketch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from swarm.memory.records import Account
    from swarm.orchestrator.monitor.board import Board

WIDEST = 160
SKETCH_LINES = (8, 13)
"""Lines that a sketch with its title needs, and has use for."""
SKETCH_WIDTHS = (26, 44)
"""Columns that a sketch needs, and has use for."""
MOST_BITS = 9.0
"""Costlier configurations are no compression, and would squeeze the others into a corner of the sketch."""
PROPOSALS = 3
ROOMY = 100
"""Columns from which the table has a place for configurations."""
LEAST_FEED = 4

_STYLES = {"good": "green", "bad": "red", "": ""}


def layout(board: Board, width: int, height: int, *, unicode: bool = True) -> RenderableType:
    """Everything about a board that fits into so many columns and lines; what matters most comes first."""
    width = min(width, WIDEST)
    parts: list[RenderableType] = [_line(text, width, "bold") for text in _wrapped(_title(board), width)]
    parts.append(_bar(board, width, unicode=unicode))
    parts += [_line(text, width, "dim") for text in _wrapped(_spend(board), width)]
    if board.failed:
        parts.append(_line("failed   " + causes(board), width, "red"))
    left = height - len(parts)
    models = [*board.models, *(m for m in board.per_model if m not in board.models)]
    if models and left > len(models) + 2:
        parts += [Text(""), _models(board, models, width)]
        left -= len(models) + 2
    if left >= SKETCH_LINES[0] + 2 + LEAST_FEED:
        tall = max(SKETCH_LINES[0], min(SKETCH_LINES[1], left // 3))
        drawn = _sketches(board, models, width, tall, unicode=unicode)
        if drawn:
            parts += [Text(""), *drawn]
            left -= len(drawn) + 1
    proposals = list(board.proposals)[-PROPOSALS:] if left >= PROPOSALS + 2 + LEAST_FEED else []
    if proposals:
        parts += [Text(""), _line("proposed", width, "dim"), *(_news(item, width) for item in proposals)]
        left -= len(proposals) + 2
    feed = list(board.feed)[-(left - 2) :] if left > 2 else []
    if feed:
        parts += [Text(""), *(_news(item, width) for item in feed)]
    return Group(*parts)


def counts(board: Board) -> str:
    """Progress, rate and time left in one line."""
    return "  ".join(_counts(board))


def _counts(board: Board) -> list[str]:
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
    return parts


def causes(board: Board) -> str:
    """How many trials failed, by cause."""
    return ", ".join(f"{amount} {cause}" for cause, amount in board.outcomes.most_common() if cause != "ok")


def _title(board: Board) -> list[str]:
    parts = [board.name, *_counts(board), f"({board.phase})" if board.phase else ""]
    return [part for part in parts if part]


def _bar(board: Board, width: int, *, unicode: bool) -> RenderableType:
    done = round(width * min(1.0, board.done / max(1, board.total)))
    full, empty = ("━", "─") if unicode else ("#", "-")
    return Text.assemble((full * done, "cyan"), (empty * (width - done), "dim"))


def _spend(board: Board) -> list[str]:
    spend = board.spend
    if not spend:
        return []
    parts = [f"time {_of(spend['seconds'], duration)}", f"workers {duration(spend['worker_seconds'].spent)}"]
    parts.append(f"LLM {_of(spend['tokens'], _whole)} tokens, {_of(spend['usd'], _usd)} USD")
    return parts + ([f"running {board.running}"] if board.running else [])


def _of(account: Account, show: object) -> str:
    text = show(account.spent)  # type: ignore[operator]
    return text if account.cap is None else f"{text} of {show(account.cap)}"  # type: ignore[operator]


def _whole(amount: float) -> str:
    return f"{amount:.0f}"


def _usd(amount: float) -> str:
    return f"{amount:.4f}"


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts side by side, on as many lines as the width asks for."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += "   " + part
        else:
            lines.append(part)
    return lines


def _models(board: Board, models: Sequence[str], width: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), width=width)
    table.add_column("model", no_wrap=True, overflow="ellipsis", ratio=2)
    for heading in ("trials", "KLD", "bits"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= ROOMY:
        table.add_column(f"best at <= {TARGET_BITS} bits/value", overflow="ellipsis", no_wrap=True, ratio=4)
    table.add_column("plateaus", overflow="ellipsis", no_wrap=True, ratio=2)
    for model in models:
        best = board.best.get(model)
        cells = [number(best.kld, 3), f"{best.bits:.2f}"] if best else ["-", "-"]
        if width >= ROOMY:
            cells.append(best.label if best else "-")
        standing = Text(", ".join(board.plateaus(model)) or "-", style="yellow" if board.plateaus(model) else "dim")
        table.add_row(Text(clean(model)), str(board.per_model[model]), *cells, standing)
    return table


def _sketches(board: Board, models: Sequence[str], width: int, tall: int, *, unicode: bool) -> list[RenderableType]:
    """Plots of the models side by side, as many as there is room for, each of so many lines."""
    marks = UNICODE if unicode else ASCII
    room = max(1, (width + 2) // (SKETCH_WIDTHS[0] + 2))
    shown = [model for model in models if board.points.get(model)][:room]
    if not shown:
        return []
    each = min(SKETCH_WIDTHS[1], (width - 2 * (len(shown) - 1)) // len(shown))
    plots = []
    for model in shown:
        points = [(p.bits, p.kld) for p in board.points[model] if p.bits <= MOST_BITS]
        front = [(p.bits, p.kld) for p in board.front(model) if p.bits <= MOST_BITS]
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


def _news(item: News, width: int) -> Text:
    style = _STYLES[item.mood] or ("dim" if item.kind in ("proposal", "phase") else "")
    return _line(item.text, width, style)


def _line(text: str, width: int, style: str) -> Text:
    return Text(News("phase", text).line(width), style=style, no_wrap=True, overflow="ellipsis")
