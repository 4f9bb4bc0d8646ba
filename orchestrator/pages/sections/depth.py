"""How the error grows with the depth of the quantized layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Columns, Interval, Num, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import kld_span
from swarm.orchestrator.views.source import Source, stored_models

TITLE = "Error against depth"
PLACE = 20
MODES = {"prefix": "layers 0 to this one quantized", "single": "this layer alone quantized"}
MAX_CURVES = 6

_CURVES = """SELECT d.trial_id AS id, d.model, d.mode, d.layer, d.key_label, d.value_label, d.kld, k.stderr, k.n,
    h.value AS hidden
FROM depth_curve d LEFT JOIN measurements k ON k.trial_id = d.trial_id AND k.metric = 'kld'
    LEFT JOIN measurements h ON h.trial_id = d.trial_id AND h.metric = 'hidden_rel_error'
WHERE d.campaign_id = {campaign} AND d.kld IS NOT NULL
ORDER BY d.model, d.mode, d.key_label, d.value_label, d.layer, d.trial_id"""


def blocks(source: Source) -> Sequence[Block]:
    """The curves."""
    rows = source.rows(_CURVES)
    if not rows:
        return []
    kinds = _kinds(source)
    rows = [{**row, "kind": kinds.get((str(row["model"]), int(row["layer"])), "")} for row in rows]
    found = [
        _chart(model, mode, list(group))
        for (model, mode), group in groupby(rows, key=lambda row: (str(row["model"]), str(row["mode"])))
    ]
    text = (
        "KLD of the whole model when only part of its layers keep a quantized cache; bars are 95% intervals over "
        "text windows."
    )
    return [Paragraph(text), Charts(found)]


def _kinds(source: Source) -> dict[tuple[str, int], str]:
    """The kind of every layer of the models that the store knows."""
    infos = stored_models(source.store).values()
    return {(info.name, number): layer.kind for info in infos for number, layer in enumerate(info.layers)}


def _chart(model: str, mode: str, rows: Sequence[dict[str, Any]]) -> Chart:
    traces = []
    curves = {
        labels: list(group) for labels, group in groupby(rows, key=lambda row: (row["key_label"], row["value_label"]))
    }
    chosen = sorted(curves.items(), key=lambda curve: -len(curve[1]))[:MAX_CURVES]
    for index, ((key, value), curve) in enumerate(chosen):
        spans = [_span(row) for row in curve]
        traces.append(
            charts.points(
                f"K {key} V {value}",
                [row["layer"] for row in curve],
                spans,
                **charts.style(index),
                texts=[
                    f"trial {row['id']}: layer {row['layer']} {row['kind']} · KLD {s.value:.3g} "
                    f"[{s.low:.3g}, {s.high:.3g}]"
                    for row, s in zip(curve, spans, strict=True)
                ],
                ids=[row["id"] for row in curve],
                mode="lines+markers" if len(curve) > 1 else "markers",
            )
        )
    first, last = rows[0], max(rows, key=lambda row: row["layer"])
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
        Table.of(title, rows, COLUMNS, folded=True),
    )


def _span(row: Mapping[str, Any]) -> Interval:
    return kld_span(row["kld"], row["stderr"], row["n"])


COLUMNS: Columns = {
    Num("Layer"): "layer",
    "Kind": "kind",
    Num("KLD, 95% interval"): _span,
    Num("Hidden-state error"): "hidden",
    "Keys": "key_label",
    "Values": "value_label",
    "Trial": lambda row: Ref("trial", row["id"]),
}
