"""Pareto fronts of KLD and bits/value, per model and rung, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

from swarm.orchestrator.pages import charts, intervals
from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Column, Interval, Paragraph, Ref, Table
from swarm.orchestrator.views.source import Source, TooMuchError

CLOUD = 1_200
NOTHING = 1e-9
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
    AND bits_per_value IS NOT NULL AND logit_gain = 1.0
ORDER BY kld"""


class Pareto(Section):
    """One chart per model and rung."""

    name: ClassVar[str] = "pareto"
    title: ClassVar[str] = "Pareto fronts"
    place: ClassVar[int] = 10

    def blocks(self, source: Source) -> Sequence[Block]:
        """The fronts, with the other trials behind them."""
        fronts = source.rows(_FRONT)
        if not fronts:
            return []
        found = []
        try:
            cloud = source.rows(_CLOUD, CLOUD)
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
        if len(cloud) >= CLOUD:
            text += f" Behind the fronts stand the {CLOUD:,} trials with the lowest KLD."
        return [Paragraph(text), Charts(found)]


def _group(row: Row) -> tuple[str, int, int]:
    return str(row["model"]), int(row["rung"]), int(row["context"])


def _chart(group: tuple[str, int, int], front: Sequence[Row], cloud: Sequence[Row]) -> Chart:
    model, rung, context = group
    spans = [intervals.kld(row["kld"], row["stderr"], row["n"]) for row in front]
    drawn = [(row, span) for row, span in zip(front, spans, strict=True) if row["kld"] > NOTHING]
    seen = [row["kld"] for row in cloud if row["kld"] > NOTHING] + [row["kld"] for row, _ in drawn]
    traces = []
    for arm, (colour, symbol) in charts.ARMS.items():
        rows = [row for row in cloud if row["arm"] == arm and row["kld"] > NOTHING]
        if rows:
            traces.append(_points(arm, rows, colour=colour, symbol=symbol, opacity=0.55))
    line = _points("front", [row for row, _ in drawn], colour=charts.GREEN, mode="lines+markers")
    line |= {"line": {"color": charts.GREEN, "width": 2, "shape": "hv"}, "marker": {"color": charts.GREEN, "size": 9}}
    line["error_y"] = charts.spread([s.low for _, s in drawn], [s.value for _, s in drawn], [s.high for _, s in drawn])
    line["text"] = [charts.label(_text(row, span), 160) for row, span in drawn]
    title = f"{model}, rung {rung}" + (f", context {context:,}" if context != 512 else "")
    best = front[0]
    return Chart(
        title,
        f"{len(front)} of {len(front) + len(cloud)} configurations are on the front of {title}: from KLD "
        f"{best['kld']:.3g} at {best['bits_per_value']:.2f} bits/value to {front[-1]['kld']:.3g} at "
        f"{front[-1]['bits_per_value']:.2f}.",
        [*traces, line],
        charts.layout(charts.axis("bits/value"), charts.log_axis("KLD, nat", seen), 400),
        _table(title, front, spans),
    )


def _points(name: str, rows: Sequence[Row], **fields: Any) -> dict[str, Any]:
    x, y = [row["bits_per_value"] for row in rows], [row["kld"] for row in rows]
    return charts.points(name, x, y, texts=[_text(row) for row in rows], ids=[row["id"] for row in rows], **fields)


def _text(row: Row, span: Interval | None = None) -> str:
    ends = f" [{span.low:.3g}, {span.high:.3g}]" if span else ""
    where = f"{row['bits_per_value']:.3g} bits, KLD {row['kld']:.3g}{ends}"
    return f"trial {row['id']}: {row['configuration']} · {where} · {row['proposer']}"


def _table(title: str, front: Sequence[Row], spans: Sequence[Interval]) -> Table:
    columns = [Column("Bits/value", True), Column("KLD, 95% interval", True), Column("Same top-1", True)]
    columns += [Column("Configuration"), Column("Trial"), Column("Proposer")]
    rows = [
        [row["bits_per_value"], span, row["same_top1"], row["configuration"], Ref("trial", row["id"]), row["proposer"]]
        for row, span in zip(front, spans, strict=True)
    ]
    return Table(f"Pareto front of {title}", columns, rows, folded=True)
