"""How the error grows with the depth of the quantized layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

from swarm.orchestrator.pages import charts, intervals
from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Column, Paragraph, Ref, Table
from swarm.orchestrator.views.source import Source

MODES = {"prefix": "layers 0 to this one quantized", "single": "this layer alone quantized"}
MOST_CURVES = 6

_CURVES = """SELECT d.trial_id AS id, d.model, d.mode, d.layer, d.key_label, d.value_label, d.kld, k.stderr, k.n,
    h.value AS hidden
FROM depth_curve d LEFT JOIN measurements k ON k.trial_id = d.trial_id AND k.metric = 'kld'
    LEFT JOIN measurements h ON h.trial_id = d.trial_id AND h.metric = 'hidden_rel_error'
WHERE d.campaign_id = {campaign} AND d.kld IS NOT NULL
ORDER BY d.model, d.mode, d.key_label, d.value_label, d.layer, d.trial_id"""


class Depth(Section):
    """One chart per model and mode, one curve per configuration."""

    name: ClassVar[str] = "depth"
    title: ClassVar[str] = "Error against depth"
    place: ClassVar[int] = 20

    def blocks(self, source: Source) -> Sequence[Block]:
        """The curves."""
        rows = source.rows(_CURVES)
        if not rows:
            return []
        found = [
            _chart(model, mode, list(group))
            for (model, mode), group in groupby(rows, key=lambda row: (str(row["model"]), str(row["mode"])))
        ]
        text = (
            "KLD of the whole model when only part of its layers keep a quantized cache; bars are 95% intervals over "
            "text windows."
        )
        return [Paragraph(text), Charts(found)]


def _chart(model: str, mode: str, rows: Sequence[dict[str, Any]]) -> Chart:
    traces = []
    curves = {
        labels: list(group) for labels, group in groupby(rows, key=lambda row: (row["key_label"], row["value_label"]))
    }
    chosen = sorted(curves.items(), key=lambda curve: -len(curve[1]))[:MOST_CURVES]
    for index, ((key, value), curve) in enumerate(chosen):
        spans = [intervals.kld(row["kld"], row["stderr"], row["n"]) for row in curve]
        trace = charts.points(
            f"K {key} V {value}",
            [row["layer"] for row in curve],
            [row["kld"] for row in curve],
            colour=charts.PALETTE[index % len(charts.PALETTE)],
            symbol=charts.SYMBOLS[index % len(charts.SYMBOLS)],
            texts=[
                f"trial {row['id']}: layer {row['layer']} · KLD {s.value:.3g} [{s.low:.3g}, {s.high:.3g}]"
                for row, s in zip(curve, spans, strict=True)
            ],
            ids=[row["id"] for row in curve],
            mode="lines+markers" if len(curve) > 1 else "markers",
        )
        traces.append(
            trace
            | {"error_y": charts.spread([s.low for s in spans], [s.value for s in spans], [s.high for s in spans])}
        )
    first, last = rows[0], max(rows, key=lambda row: row["layer"])
    columns = [Column("Layer", True), Column("KLD, 95% interval", True), Column("Hidden-state error", True)]
    columns += [Column("Keys"), Column("Values"), Column("Trial")]
    table = [
        [
            row["layer"], intervals.kld(row["kld"], row["stderr"], row["n"]), row["hidden"],
            row["key_label"], row["value_label"], Ref("trial", row["id"]),
        ]
        for row in rows
    ]  # fmt: skip
    title = f"{model}: {MODES[mode]}"
    return Chart(
        title,
        f"KLD of {model} with {MODES[mode]}: {first['kld']:.3g} at layer {first['layer']}, {last['kld']:.3g} at layer "
        f"{last['layer']}.",
        traces,
        charts.layout(
            charts.whole_axis("layer", [row["layer"] for row in rows]),
            charts.log_axis("KLD, nat", [row["kld"] for row in rows]),
        ),
        Table(title, columns, table, folded=True),
    )
