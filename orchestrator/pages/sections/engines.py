"""How a running engine behaves as the context grows: the trials of `swarm probe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swarm.experiments.sizing.units import tokens
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Num, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import metric
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord

TITLE = "Engine"
PLACE = 5
MAX_TRIALS = 100
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


def blocks(source: Source) -> Sequence[Block]:
    """Charts of latency, prefill and decode, and memory where the engine tells."""
    if "probe" not in source.campaign.settings:
        return []
    trials = source.trials(_PROBES, MAX_TRIALS)
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
        seen += [span.value for span in spans]
        traces.append(
            charts.points(
                heading,
                [trial.spec.context for trial in mine],
                spans,
                **charts.style(index),
                texts=[
                    f"{trial.spec.context:,} tokens: {span.value:.3g} {unit} · trial {trial.id}"
                    for trial, span in zip(mine, spans, strict=True)
                ],
                ids=[trial.id for trial in mine],
                mode="lines+markers",
            )
        )
    present = {key: heading for key, heading in series.items() if any(key in trial.metrics for trial in trials)}
    headings = [Num("Context"), *map(Num, present.values()), "Trial"]
    rows = [[t.spec.context, *(metric(t, key) for key in present), Ref("trial", t.id)] for t in trials]
    reach = f"{trials[0].spec.context:,} to {trials[-1].spec.context:,} tokens" if trials else "no context"
    return Chart(
        name,
        f"{name} in {unit} over {reach} of context: {', '.join(present.values())}.",
        traces,
        charts.layout(charts.axis("context, tokens", type="log", **_ticks(trials)), charts.log_axis(unit, seen)),
        Table(f"{name}, {unit}", headings, rows, folded=True),
    )


def _ticks(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """A tick at each context that was measured."""
    contexts = sorted({trial.spec.context for trial in trials})
    return {"tickvals": contexts, "ticktext": [tokens(context) for context in contexts]}
