"""The few kinds of chart that pages are made of, as Plotly figures.

Plotly reads text as a little HTML: `label` takes its meaning away. Colours are of a middle lightness, so that they
stand out on white and on black; every series has a symbol of its own as well.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swarm.orchestrator.pages.blocks import Interval

BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, OLIVE, GREY = (
    "#3b82d6", "#d97a1a", "#2f9e5b", "#9a6bd3", "#d64b5f", "#1a9aa0", "#8f8a1f", "#808895",
)  # fmt: skip
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, OLIVE)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
ARMS = {"agents": (BLUE, "circle"), "control": (ORANGE, "square"), "defaults": (GREY, "diamond")}
STATUSES = {"confirmed": GREEN, "hypothesis": BLUE, "refuted": RED, "inconclusive": GREY, "open": ORANGE}

HEIGHT = 360
MAX_LABEL_CHARS = 60
MAX_WHOLE_TICKS = 12
"""An axis of whole numbers that spans no more of them has a tick at each."""
MIN_LOG_TICKS = 3
MIN_DECADES_APART = 0.08
"""Two ticks that are closer than this would overlap."""


def label(text: object, longest: int = MAX_LABEL_CHARS) -> str:
    """Text for a figure: no tags, at most so long."""
    plain = str(text)
    short = plain if len(plain) <= longest else plain[: longest - 1] + "…"
    return html.escape(short, quote=False)


def finite(values: Iterable[float | None]) -> list[float | None]:
    """Numbers as JSON knows them."""
    return [None if value is None or not math.isfinite(value) else value for value in values]


def axis(title: str, **fields: Any) -> dict[str, Any]:
    """An axis with a heading, which is text."""
    heading = {"title": {"text": label(title), "standoff": 8}} if title else {}
    return {**heading, "automargin": True, **fields}


def whole_axis(title: str, values: Iterable[float | None], **fields: Any) -> dict[str, Any]:
    """An axis of whole numbers, without halves between them."""
    known = [value for value in values if value is not None]
    span = max(known) - min(known) if known else 0
    return axis(title, tickformat="d", **({"dtick": 1} if span <= MAX_WHOLE_TICKS else {}), **fields)


def named_axis(kind: str, places: Mapping[int, float]) -> dict[str, Any]:
    """An axis with one tick per trial or finding: its number in the store to its place on the axis."""
    ticktext = [f"{kind} {identity}" for identity in places]
    return axis("", showgrid=False, tickvals=list(places.values()), ticktext=ticktext)


def log_axis(title: str, values: Iterable[float | None], **fields: Any) -> dict[str, Any]:
    """A logarithmic axis with ticks that read as numbers, as many as the values' range needs."""
    ticks = log_ticks([value for value in values if value is not None and value > 0])
    return axis(title, type="log", tickvals=ticks, ticktext=[_tick(tick) for tick in ticks], **fields)


def _tick(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def log_ticks(values: Sequence[float]) -> list[float]:
    """Whole decades, or finer steps where the values span few of them; both ends lie outside.

    A single value is a tick itself: around it and its interval there may be no other.
    """
    if not values:
        return [1.0]
    low, high = math.log10(min(values)), math.log10(max(values))
    steps = (1,) if high - low > 2.2 else (1, 3) if high - low > 1.1 else (1, 2, 5)
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    if low == high:
        return sorted([tick for tick in ticks if abs(math.log10(tick) - low) > MIN_DECADES_APART] + [values[0]])
    if sum(min(values) <= tick <= max(values) for tick in ticks) >= MIN_LOG_TICKS:
        return ticks
    step = 10.0 ** math.floor(math.log10((max(values) - min(values)) / 2))
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    every = max(1, (last - first) // 5)
    return [step * place for place in range(max(first, 1), last + every, every)]


def layout(x: Mapping[str, Any], y: Mapping[str, Any], height: int = HEIGHT, **fields: Any) -> dict[str, Any]:
    """A layout with the two axes; colours of text and grid come from the page."""
    return {"xaxis": dict(x), "yaxis": dict(y), "height": height, **fields}


def style(index: int) -> dict[str, Any]:
    """The colour and the symbol of the series of that number."""
    return {"colour": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index % len(SYMBOLS)]}


def points(
    name: str,
    x: Sequence[float | Interval | None],
    y: Sequence[float | Interval | None],
    *,
    colour: str = BLUE,
    symbol: str = "circle",
    texts: Sequence[str] = (),
    ids: Sequence[int] = (),
    mode: str = "markers",
    **fields: Any,
) -> dict[str, Any]:
    """A series of points, intervals with error bars; a click on one leads to the trial in `ids`."""
    trace: dict[str, Any] = {
        "type": "scatter",
        "name": label(name),
        "mode": mode,
        "x": _values(x),
        "y": _values(y),
        "marker": {"color": colour, "symbol": symbol, "size": 7},
        "line": {"color": colour, "width": 2},
        **fields,
    }
    for axis, given in (("error_x", x), ("error_y", y)):
        if spans := [value for value in given if isinstance(value, Interval)]:
            trace[axis] = _error_bars(spans)
    if texts:
        trace |= {"text": [label(text, 160) for text in texts], "hovertemplate": "%{text}<extra></extra>"}
    if ids:
        trace["customdata"] = list(ids)
    return trace


def _values(given: Sequence[float | Interval | None]) -> list[float | None]:
    return finite(value.value if isinstance(value, Interval) else value for value in given)


def _error_bars(spans: Sequence[Interval]) -> dict[str, Any]:
    ends = {
        "array": [span.high - span.value for span in spans],
        "arrayminus": [span.value - span.low for span in spans],
    }
    gaps = {name: [max(0.0, gap) if math.isfinite(gap) else 0.0 for gap in found] for name, found in ends.items()}
    return {"type": "data", "symmetric": False, **gaps, "thickness": 1.2, "width": 3}


def heat(x: Sequence[Any], y: Sequence[str], z: Sequence[Sequence[float | None]], unit: str) -> dict[str, Any]:
    """A heat map of positive numbers on a logarithmic scale of colour.

    Say in its title what `x` is: Plotly puts the heading of the axis under a heat map onto the numbers there.
    """
    logs = [[math.log10(v) if v is not None and v > 0 and math.isfinite(v) else None for v in row] for row in z]
    flat = [value for row in z for value in row if value is not None and value > 0 and math.isfinite(value)]
    ticks = [tick for tick in log_ticks(flat) if min(flat, default=1) <= tick <= max(flat, default=1)]
    return {
        "type": "heatmap",
        "x": list(x),
        "y": [label(name, 44) for name in y],
        "z": logs,
        "customdata": [finite(row) for row in z],
        "colorscale": "Cividis",
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": f"%{{y}}<br>layer %{{x}}<br>%{{customdata:.3g}} {label(unit)}<extra></extra>",
        "colorbar": {
            "title": {"text": label(unit), "side": "top"},
            "tickvals": [math.log10(tick) for tick in ticks],
            "ticktext": [_tick(tick) for tick in ticks],
            "orientation": "h",
            "thickness": 10,
            "y": 1.01,
            "yanchor": "bottom",
        },
    }


def dashed(**ends: Any) -> dict[str, Any]:
    """A dashed line between two points."""
    return {"type": "line", "line": {"dash": "dash", "color": GREY}, **ends}


def upright(x: float) -> dict[str, Any]:
    """A dashed vertical line through the whole chart."""
    return dashed(x0=x, x1=x, yref="paper", y0=0, y1=1)
