"""How a running engine behaves as the context grows: the trials of `swarm probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.sizing.units import tokens
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Column, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import metric
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord

MOST = 100
FIGURES = {
    "Time to first token": (
        "s",
        {"ttft": "fresh prompt", "shared_ttft": "shared prefix", "clients_ttft": "clients at once"},
    ),
    "Prefill rate": ("tok/s", {"prefill_rate": "measured", "engine_prefill_tokens_per_second": "engine says"}),
    "Decode rate": (
        "tok/s",
        {"decode_rate": "one client", "clients_decode_rate": "each of several", "clients_throughput": "all together"},
    ),
}  # fmt: skip

_PROBES = "SELECT id FROM trials WHERE campaign_id = {campaign} AND protocol = 'probe' ORDER BY context, id"


class Engines(Section):
    """Latency and rates over the context."""

    name: ClassVar[str] = "engines"
    title: ClassVar[str] = "Engine"
    place: ClassVar[int] = 5

    def blocks(self, source: Source) -> Sequence[Block]:
        """Charts of latency, prefill and decode, and memory where the engine tells."""
        if "probe" not in source.campaign.settings:
            return []
        trials = source.trials(_PROBES, MOST)
        measured = [trial for trial in trials if trial.state == "complete"]
        refused = [trial for trial in trials if trial.state == "failed"]
        figures = dict(FIGURES)
        memory = sorted({name for trial in measured for name in trial.metrics if name.startswith("memory_")})
        if memory:
            figures["Memory"] = ("bytes", {name: name.removeprefix("memory_") for name in memory})
        charts_ = [_chart(name, unit, series, measured) for name, (unit, series) in figures.items()]
        notes = [Paragraph(trial.notes) for trial in measured[:1] if trial.notes]
        notes += [Paragraph(f"{trial.spec.context:,} tokens: {trial.message}", "warn") for trial in refused]
        return [*notes, *([Charts([chart for chart in charts_ if chart.data])] if measured else [])]


def _chart(name: str, unit: str, series: dict[str, str], trials: Sequence[TrialRecord]) -> Chart:
    traces: list[dict[str, Any]] = []
    seen: list[float] = []
    for index, (key, heading) in enumerate(series.items()):
        mine = [trial for trial in trials if key in trial.metrics]
        if not mine:
            continue
        spans = [span for trial in mine if (span := metric(trial, key))]
        values = [span.value for span in spans]
        seen += values
        trace = charts.points(
            heading,
            [trial.spec.context for trial in mine],
            values,
            colour=charts.PALETTE[index],
            symbol=charts.SYMBOLS[index],
            texts=[
                f"{trial.spec.context:,} tokens: {value:.3g} {unit} · trial {trial.id}"
                for trial, value in zip(mine, values, strict=True)
            ],
            ids=[trial.id for trial in mine],
            mode="lines+markers",
        )
        traces.append(trace | {"error_y": charts.spread([s.low for s in spans], values, [s.high for s in spans])})
    present = {key: heading for key, heading in series.items() if any(key in trial.metrics for trial in trials)}
    columns = [Column("Context", True), *(Column(heading, True) for heading in present.values()), Column("Trial")]
    rows = [[t.spec.context, *(metric(t, key) for key in present), Ref("trial", t.id)] for t in trials]
    reach = f"{trials[0].spec.context:,} to {trials[-1].spec.context:,} tokens" if trials else "no context"
    return Chart(
        name,
        f"{name} in {unit} over {reach} of context: {', '.join(present.values())}.",
        traces,
        charts.layout(charts.axis("context, tokens", type="log", **_ticks(trials)), charts.log_axis(unit, seen)),
        Table(f"{name}, {unit}", columns, rows, folded=True),
    )


def _ticks(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """A tick at each context that was measured."""
    contexts = sorted({trial.spec.context for trial in trials})
    return {"tickvals": contexts, "ticktext": [tokens(context) for context in contexts]}
