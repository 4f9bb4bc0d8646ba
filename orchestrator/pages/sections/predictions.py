"""Predictions that were registered before their trials, and how they came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from swarm.memory.records import Prediction
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Chart, Column, Interval, Paragraph, Ref, Table, Tag
from swarm.orchestrator.pages.entities import VERDICT_TONES, claim
from swarm.orchestrator.views.source import Source

MOST = 200
MOST_POINTS = 40
VERDICTS = ("confirmed", "refuted", "inconclusive", "open")

_COUNTS = """SELECT t.proposer, p.verdict, COUNT(*) AS n FROM predictions p JOIN trials t ON t.id = p.trial_id
WHERE t.campaign_id = {campaign} GROUP BY t.proposer, p.verdict ORDER BY t.proposer"""

_LATEST = """SELECT p.trial_id AS id, p.metric, p.comparator, p.threshold, p.reference_id, p.verdict, p.observed, p.low,
    p.high, t.proposer, t.model, t.configuration
FROM predictions p JOIN trials t ON t.id = p.trial_id WHERE t.campaign_id = {campaign} ORDER BY p.trial_id DESC"""


class Predictions(Section):
    """What was predicted, and what was measured."""

    name: ClassVar[str] = "predictions"
    title: ClassVar[str] = "Predictions"
    place: ClassVar[int] = 60

    def blocks(self, source: Source) -> Sequence[Block]:
        """Counts per proposer, a chart of observed against predicted, and each prediction."""
        rows = source.rows(_LATEST, MOST)
        if not rows:
            return []
        scored = [row for row in rows if row["observed"] is not None and row["threshold"] > 0 and row["observed"] > 0]
        return [
            Paragraph(
                "Registered in the store before the trial ran and scored by code: confirmed or refuted when the whole "
                "95% interval lies on one side of the predicted bound, else inconclusive."
            ),
            _counts(source.rows(_COUNTS)),
            *([_chart(scored[:MOST_POINTS])] if scored else []),
            _table(rows),
        ]


def _counts(rows: Sequence[dict[str, Any]]) -> Table:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["proposer"]), Counter())[str(row["verdict"])] += int(row["n"])
    columns = [
        Column("Proposer"),
        *(Column(verdict, True) for verdict in VERDICTS),
        Column("Confirmed of scored", True),
    ]
    table = []
    for proposer, of in counts.items():
        total = sum(of[verdict] for verdict in VERDICTS[:3])
        share = f"{of['confirmed'] / total:.0%}" if total else None
        table.append([proposer, *(of[verdict] for verdict in VERDICTS), share])
    return Table("Predictions by proposer", columns, table)


def _chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """Observed over predicted: a bound `<=` holds left of 1, a bound `>=` right of it."""
    ordered = list(reversed(rows))
    places = {row["id"]: place for place, row in enumerate(ordered)}
    traces: list[dict[str, Any]] = []
    seen: list[float] = []
    for verdict in VERDICTS:
        mine = [row for row in ordered if row["verdict"] == verdict]
        if not mine:
            continue
        values = [row["observed"] / row["threshold"] for row in mine]
        ends = [
            [(row[end] if row[end] is not None else row["observed"]) / row["threshold"] for row in mine]
            for end in ("low", "high")
        ]
        seen += [end for both in ends for end in both]
        trace = charts.points(
            verdict,
            values,
            [places[row["id"]] for row in mine],
            colour=charts.STATUSES[verdict],
            symbol=charts.SYMBOLS[VERDICTS.index(verdict)],
            texts=[f"trial {row['id']}: {claim(_prediction(row))} · observed {row['observed']:.3g}" for row in mine],
            ids=[row["id"] for row in mine],
        )
        traces.append(trace | {"error_x": charts.spread(ends[0], values, ends[1])})
    ticks = {"tickvals": list(places.values()), "ticktext": [f"trial {identity}" for identity in places]}
    confirmed = sum(row["verdict"] == "confirmed" for row in rows)
    return Chart(
        "Observed over the predicted bound",
        f"{len(rows)} scored predictions, observed value over predicted bound; {confirmed} are confirmed.",
        traces,
        charts.layout(
            charts.log_axis("observed / predicted bound, 95% interval", [*seen, 1.0]),
            charts.axis("", showgrid=False, **ticks),
            140 + 17 * len(rows),
            shapes=[charts.upright(1)],
        ),
    )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = [Column("Trial"), Column("Proposer"), Column("Predicted"), Column("Observed, 95% interval", True)]
    columns += [Column("Verdict"), Column("Model"), Column("Configuration")]
    table = [
        [
            Ref("trial", row["id"]), row["proposer"], claim(_prediction(row)), _observed(row),
            Tag(row["verdict"], VERDICT_TONES.get(row["verdict"], "plain")), row["model"], row["configuration"],
        ]
        for row in rows
    ]  # fmt: skip
    return Table("Each prediction, the latest first", columns, table, folded=len(rows) > 12, stacked=True)


def _observed(row: dict[str, Any]) -> Interval | float | None:
    if row["observed"] is None or row["low"] is None or row["high"] is None:
        found: float | None = row["observed"]
        return found
    return Interval(row["observed"], row["low"], row["high"])


def _prediction(row: dict[str, Any]) -> Prediction:
    return Prediction(
        metric=row["metric"], comparator=row["comparator"], threshold=row["threshold"], reference=row["reference_id"]
    )
