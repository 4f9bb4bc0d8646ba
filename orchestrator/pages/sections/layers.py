"""Layer by method: how far attention's output is off in each layer, and the number G that controls it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Num, Paragraph, Table
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord

TITLE = "Layer by method"
PLACE = 30
MAX_TRIALS = 400
MAX_METHODS = 24
SERIES = {
    "layer_output_rel_error": ("error of attention's output", "relative error"),
    "layer_g": ("G", "logits"),
}

_ATTENTION = """SELECT id FROM trials WHERE campaign_id = {campaign} AND protocol = 'attention' AND state = 'complete'
ORDER BY number"""

Grid = dict[str, dict[int, float]]
"""Method to layer to value."""


def blocks(source: Source) -> Sequence[Block]:
    """The heat maps."""
    trials = source.trials(_ATTENTION, MAX_TRIALS)
    if not trials:
        return []
    found = []
    for model in source.models:
        mine = [trial for trial in trials if trial.spec.model == model]
        found += [_chart(model, name, mine) for name in SERIES if any(name in trial.arrays for trial in mine)]
    text = (
        "Measured on queries, keys and values captured from the 16-bit run, layer by layer. G = scale · |q| · |k| "
        "· sqrt(relative MSE of the keys / head size) is the size of the error in the attention logits: where it "
        "is well below 1, softmax hides it. Methods are in order of their mean."
    )
    return [Paragraph(text), Charts(found)]


def _chart(model: str, series: str, trials: Sequence[TrialRecord]) -> Chart:
    what, unit = SERIES[series]
    grid = _grid(series, trials)
    means = {method: fmean(values.values()) for method, values in grid.items()}
    methods = sorted(grid, key=lambda method: means[method], reverse=True)
    if len(methods) > MAX_METHODS:  # those that cover most layers say most
        most = sorted(methods, key=lambda method: -len(grid[method]))[:MAX_METHODS]
        methods = [method for method in methods if method in most]
    layers = sorted({layer for method in methods for layer in grid[method]})
    z = [[grid[method].get(layer) for layer in layers] for method in methods]
    best, worst = methods[-1], methods[0]
    title = f"{model}: {what}, by layer"
    return Chart(
        title,
        f"Heat map of {what} on {model}, {len(methods)} methods by {len(layers)} layers: mean {means[best]:.3g} for "
        f"{best}, {means[worst]:.3g} for {worst}.",
        [charts.heat(layers, methods, z, unit)],
        charts.layout(
            charts.axis("", automargin=False),
            charts.axis("", tickfont={"size": 10}, type="category"),
            180 + 19 * len(methods),
            margin={"b": 30},
        ),
        _table(title, methods, layers, grid),
    )


def _grid(series: str, trials: Sequence[TrialRecord]) -> Grid:
    """Means over trials; a trial's series stands in the order of its quantized layers."""
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        found = trial.arrays.get(series, ())
        layers = trial.spec.layers or tuple(range(len(found)))
        for layer, value in zip(layers, found, strict=False):
            if isfinite(value):
                values[_method(trial)][layer].append(value)
    return {method: {layer: fmean(v) for layer, v in row.items()} for method, row in values.items()}


def _method(trial: TrialRecord) -> str:
    """What quantized layers store, in short."""
    return trial.spec.kv.on(None).short_label


def _table(title: str, methods: Sequence[str], layers: Sequence[int], grid: Grid) -> Table:
    headings = ["Method", *(Num(layer) for layer in layers)]
    rows = [[method, *(grid[method].get(layer) for layer in layers)] for method in reversed(methods)]
    return Table(f"{title}, numbers", headings, rows, folded=True)
