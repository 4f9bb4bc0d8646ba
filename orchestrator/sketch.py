"""A small plot of KLD against bits per value in characters. Knows numbers and characters, no campaigns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

LEAST_KLD = 1e-6
"""The 16-bit run has a KLD of about nothing; what lies below is drawn on the floor."""


@dataclass(frozen=True)
class Marks:
    """The characters of a sketch."""

    trial: str
    front: str
    across: str
    down: str
    corner: str


UNICODE = Marks("·", "●", "─", "│", "└")
ASCII = Marks(".", "o", "-", "|", "+")


def sketch(
    points: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    *,
    width: int,
    height: int,
    marks: Marks = UNICODE,
) -> list[str]:
    """Points (bits per value, KLD) as lines of text: bits to the right, KLD upwards on a logarithmic scale.

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
    left, right = _span([bits for bits, _ in drawn], 0.5)
    low, high = _span([_level(kld) for _, kld in drawn], 0.1)
    grid = [[" "] * columns for _ in range(rows)]

    def draw(some: Sequence[tuple[float, float]], mark: str) -> None:
        for bits, kld in some:
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


MARGIN = 8
"""Columns of the axis and its labels."""


def _level(kld: float) -> float:
    return log10(max(kld, LEAST_KLD))


def _span(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(0.0, least - (high - low)) / 2
    return low - room, high + room


def _label(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}"
