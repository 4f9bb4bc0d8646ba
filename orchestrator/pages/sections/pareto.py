"""Pareto fronts of KLD and bits/value, per model and rung, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Columns, Num, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import kld_span
from swarm.orchestrator.views.source import Source, TooMuchError

TITLE = "Pareto fronts"
PLACE = 10
MAX_CLOUD = 1_200
MIN_KLD = 1e-9
"""KLD of the 16-bit run against itself is rounding, and has no place on a logarithmic axis."""
Row = Mapping[str, Any]

_FRONT = """SELECT f.trial_id AS id, f.model, f.rung, f.context, f.bits_per_value, f.kld, k.stderr, k.n,
    s.value AS same_top1, t.configuration, t.proposer, t.arm
FROM front f JOIN trials t ON t.id = f.trial_id
    LEFT JOIN measurements k ON k.trial_id = f.trial_id AND k.metric = 'kld'
    LEFT JOIN measurements s ON s.trial_id = f.trial_id AND s.metric = 'same_top1'
WHERE f.campaign_id = {campaign} AND f.protocol = 'quality'
ORDER BY f.model, f.rung, f.context, f.bits_per_value"""

_CLOUD = """SELECT id, model, rung, context, bits_per_value, kld, configuration, proposer, arm FROM trials
WHERE campaign_id = {campaign} AND kld IS NOT NULL AND protocol = 'quality' AND state = 'complete'
    AND bits_per_value IS NOT NULL AND logit_gain = 1.0 AND edits = ''
ORDER BY kld"""


def blocks(source: Source) -> Sequence[Block]:
    """The fronts, with the other trials behind them."""
    fronts = [{**row, "span": kld_span(row["kld"], row["stderr"], row["n"])} for row in source.rows(_FRONT)]
    if not fronts:
        return []
    found = []
    try:
        cloud = source.rows(_CLOUD, MAX_CLOUD)
    except TooMuchError:
        cloud = []
    for group, rows in groupby(fronts, key=_group):
        members = list(rows)
        best = {row["id"] for row in members}
        found.append(_chart(group, members, [r for r in cloud if _group(r) == group and r["id"] not in best]))
    text = (
        "Lower and further left is better. The line is what no other trial beats in both; bars are 95% intervals "
        "over text windows. KLD is the mean divergence of next-token distributions from the 16-bit run, in nats; "
        "bits/value counts all metadata. A click on a point leads to its trial."
    )
    if len(cloud) >= MAX_CLOUD:
        text += f" Behind the fronts stand the {MAX_CLOUD:,} trials with the lowest KLD."
    return [Paragraph(text), Charts(found)]


def _group(row: Row) -> tuple[str, int, int]:
    return str(row["model"]), int(row["rung"]), int(row["context"])


def _chart(group: tuple[str, int, int], front: Sequence[Row], cloud: Sequence[Row]) -> Chart:
    model, rung, context = group
    cloud_drawn, front_drawn = ([row for row in rows if row["kld"] > MIN_KLD] for rows in (cloud, front))
    traces = []
    for arm, (colour, symbol) in charts.ARMS.items():
        rows = [row for row in cloud_drawn if row["arm"] == arm]
        if rows:
            traces.append(_points(arm, rows, colour=colour, symbol=symbol, opacity=0.55))
    line = {"color": charts.GREEN, "width": 2, "shape": "hv"}
    marker = {"color": charts.GREEN, "size": 9}
    traces.append(_points("front", front_drawn, mode="lines+markers", line=line, marker=marker))
    title = f"{model}, rung {rung}" + (f", context {context:,}" if context != 512 else "")
    best, last = front[0], front[-1]
    return Chart(
        title,
        f"{len(front)} of {len(front) + len(cloud)} configurations are on the front of {title}: from KLD "
        f"{best['kld']:.3g} at {best['bits_per_value']:.2f} bits/value to {last['kld']:.3g} at "
        f"{last['bits_per_value']:.2f}.",
        traces,
        charts.layout(
            charts.axis("bits/value"),
            charts.log_axis("KLD, nat", [row["kld"] for row in (*cloud_drawn, *front_drawn)]),
            400,
        ),
        Table.of(f"Pareto front of {title}", front, COLUMNS, folded=True),
    )


def _points(name: str, rows: Sequence[Row], **fields: Any) -> dict[str, Any]:
    x, y = [row["bits_per_value"] for row in rows], [row.get("span", row["kld"]) for row in rows]
    return charts.points(name, x, y, texts=[_text(row) for row in rows], ids=[row["id"] for row in rows], **fields)


def _text(row: Row) -> str:
    ends = f" [{row['span'].low:.3g}, {row['span'].high:.3g}]" if "span" in row else ""
    where = f"{row['bits_per_value']:.3g} bits, KLD {row['kld']:.3g}{ends}"
    return f"trial {row['id']}: {row['configuration']} · {where} · {row['proposer']}"


COLUMNS: Columns = {
    Num("Bits/value"): "bits_per_value",
    Num("KLD, 95% interval"): "span",
    Num("Same top-1"): "same_top1",
    "Configuration": "configuration",
    "Trial": lambda row: Ref("trial", row["id"]),
    "Proposer": "proposer",
}
