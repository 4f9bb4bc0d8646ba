"""Whether what is best at the shortest context holds at longer ones: the curves of the finalists, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Columns, Interval, Num, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import kld_span, span
from swarm.orchestrator.views.source import Source

TITLE = "At long contexts"
PLACE = 15
POINT = "kld_at_"
MAX_CURVES = 6

_POINTS = """SELECT t.id, t.model, t.configuration, t.bits_per_value, t.context AS longest, m.metric, m.value, m.stderr,
    m.n, k.value AS kept, k.stderr AS kept_stderr, k.n AS kept_n
FROM trials t JOIN measurements m ON m.trial_id = t.id AND m.metric LIKE 'kld_at_%'
    LEFT JOIN trials r ON r.campaign_id = t.campaign_id AND r.model = t.model AND r.protocol = 'retrieval'
        AND r.configuration = t.configuration AND r.context = t.context AND r.rung = t.rung
        AND r.replicate = t.replicate AND r.state = 'complete'
    LEFT JOIN measurements k ON k.trial_id = r.id AND k.metric = 'kept'
WHERE t.campaign_id = {campaign} AND t.protocol = 'context' AND t.state = 'complete'
ORDER BY t.model, t.bits_per_value, t.id"""


def blocks(source: Source) -> Sequence[Block]:
    """One chart per model; without any, why a campaign left them out."""
    rows = [{**row, "tokens": int(str(row["metric"]).removeprefix(POINT))} for row in source.rows(_POINTS)]
    if not rows:
        left_out = source.campaign.settings.get("left_out")
        return [Paragraph(str(left_out), "warn")] if left_out else []
    text = (
        "KLD of the finalists at growing contexts, each on text windows of its own, after a 16-bit prefill; bars are "
        "95% intervals over text windows. Answers kept: of the questions about facts in a text of the longest context "
        "that 16 bit answers, the share that is still answered."
    )
    return [Paragraph(text), Charts([_chart(model, list(group)) for model, group in groupby(rows, key=_model)])]


def _model(row: Mapping[str, Any]) -> str:
    return str(row["model"])


def _chart(model: str, rows: Sequence[dict[str, Any]]) -> Chart:
    curves = [
        (label, sorted(group, key=lambda row: int(row["tokens"])))
        for label, group in groupby(rows, key=lambda row: str(row["configuration"]))
    ]
    traces = [_curve(index, label, curve) for index, (label, curve) in enumerate(curves[:MAX_CURVES])]
    title = f"{model}: KLD against context"
    return Chart(
        title,
        _verdict(model, curves),
        traces,
        charts.layout(
            charts.log_axis("context, tokens", [row["tokens"] for row in rows]),
            charts.log_axis("KLD, nat", [row["value"] for row in rows]),
        ),
        Table.of(title, rows, COLUMNS, folded=True),
    )


def _curve(index: int, label: str, curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spans = [_span(row) for row in curve]
    return charts.points(
        label,
        [row["tokens"] for row in curve],
        spans,
        **charts.style(index),
        texts=[
            f"trial {row['id']}: {row['tokens']} tokens · KLD {s.value:.3g} [{s.low:.3g}, {s.high:.3g}]"
            for row, s in zip(curve, spans, strict=True)
        ],
        ids=[row["id"] for row in curve],
        mode="lines+markers",
    )


def _verdict(model: str, curves: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """Which configuration leads at either end."""
    first, last = (min(curves, key=lambda curve, at=at: float(curve[1][at]["value"])) for at in (0, -1))  # type: ignore[misc]
    short, long = first[1][0]["tokens"], last[1][-1]["tokens"]
    led = f"Of {len(curves)} finalists of {model}, {first[0]} leads at {short} tokens"
    return f"{led} and at {long}." if first[0] == last[0] else f"{led}, {last[0]} at {long}."


def _span(row: Mapping[str, Any]) -> Interval:
    return kld_span(row["value"], row["stderr"], row["n"])


def _kept(row: Mapping[str, Any]) -> Interval | None:
    return None if row["kept"] is None else span(row["kept"], row["kept_stderr"], row["kept_n"])


COLUMNS: Columns = {
    "Configuration": "configuration",
    Num("Bits/value"): "bits_per_value",
    Num("Tokens"): "tokens",
    Num("KLD, 95% interval"): _span,
    Num("Answers kept at the longest, 95% interval"): _kept,
    "Trial": lambda row: Ref("trial", row["id"]),
}
