"""Predictions that were registered before their trials, and how they came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from swarm.memory.records import Prediction
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Columns, Interval, Num, Paragraph, Ref, Table, Tag
from swarm.orchestrator.pages.entities import VERDICT_TONES, claim
from swarm.orchestrator.views.source import Source

TITLE = "Predictions"
PLACE = 60
MAX_PREDICTIONS = 200
MAX_POINTS = 40
MAX_OPEN_ROWS = 12
"""A longer table is folded."""
VERDICTS = ("confirmed", "refuted", "inconclusive", "open")

_COUNTS = """SELECT t.proposer, p.verdict, COUNT(*) AS n FROM predictions p JOIN trials t ON t.id = p.trial_id
WHERE t.campaign_id = {campaign} GROUP BY t.proposer, p.verdict ORDER BY t.proposer"""

_LATEST = """SELECT p.trial_id AS id, p.metric, p.comparator, p.threshold, p.reference_id, p.verdict, p.observed, p.low,
    p.high, t.proposer, t.model, t.configuration
FROM predictions p JOIN trials t ON t.id = p.trial_id WHERE t.campaign_id = {campaign} ORDER BY p.trial_id DESC"""


Row = Mapping[str, Any]


def blocks(source: Source) -> Sequence[Block]:
    """Counts per proposer, a chart of observed against predicted, and each prediction."""
    rows = source.rows(_LATEST, MAX_PREDICTIONS)
    if not rows:
        return []
    scored = [row for row in rows if row["observed"] is not None and row["threshold"] > 0 and row["observed"] > 0]
    return [
        Paragraph(
            "Registered in the store before the trial ran and scored by code: confirmed or refuted when the whole "
            "95% interval lies on one side of the predicted bound, else inconclusive."
        ),
        _counts(source.rows(_COUNTS)),
        *([_chart(scored[:MAX_POINTS])] if scored else []),
        _table(rows),
    ]


def _counts(rows: Sequence[Row]) -> Table:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(str(row["proposer"]), Counter())[str(row["verdict"])] += int(row["n"])
    headings = ["Proposer", *map(Num, VERDICTS), Num("Confirmed of scored")]
    table = []
    for proposer, of in counts.items():
        total = sum(of[verdict] for verdict in VERDICTS[:3])
        share = f"{of['confirmed'] / total:.0%}" if total else None
        table.append([proposer, *(of[verdict] for verdict in VERDICTS), share])
    return Table("Predictions by proposer", headings, table)


def _chart(rows: Sequence[Row]) -> Chart:
    """Observed over predicted: a bound `<=` holds left of 1, a bound `>=` right of it."""
    ordered = list(reversed(rows))
    places = {row["id"]: place for place, row in enumerate(ordered)}
    traces: list[dict[str, Any]] = []
    seen: list[float] = []
    for verdict in VERDICTS:
        mine = [row for row in ordered if row["verdict"] == verdict]
        if not mine:
            continue
        spans = [_over_bound(row) for row in mine]
        seen += [end for span in spans for end in (span.low, span.high)]
        traces.append(
            charts.points(
                verdict,
                spans,
                [places[row["id"]] for row in mine],
                colour=charts.STATUSES[verdict],
                symbol=charts.SYMBOLS[VERDICTS.index(verdict)],
                texts=[
                    f"trial {row['id']}: {claim(_prediction(row))} · observed {row['observed']:.3g}" for row in mine
                ],
                ids=[row["id"] for row in mine],
            )
        )
    confirmed = sum(row["verdict"] == "confirmed" for row in rows)
    return Chart(
        "Observed over the predicted bound",
        f"{len(rows)} scored predictions, observed value over predicted bound; {confirmed} are confirmed.",
        traces,
        charts.layout(
            charts.log_axis("observed / predicted bound, 95% interval", [*seen, 1.0]),
            charts.named_axis("trial", places),
            140 + 17 * len(rows),
            shapes=[charts.upright(1)],
        ),
    )


def _over_bound(row: Row) -> Interval:
    """The observed interval over the predicted bound."""
    value = row["observed"]
    low, high = (value if row[end] is None else row[end] for end in ("low", "high"))
    return Interval(value / row["threshold"], low / row["threshold"], high / row["threshold"])


def _table(rows: Sequence[Row]) -> Table:
    columns: Columns = {
        "Trial": lambda row: Ref("trial", row["id"]),
        "Proposer": "proposer",
        "Predicted": lambda row: claim(_prediction(row)),
        Num("Observed, 95% interval"): _observed,
        "Verdict": lambda row: Tag(row["verdict"], VERDICT_TONES.get(row["verdict"], "plain")),
        "Model": "model",
        "Configuration": "configuration",
    }
    caption = "Each prediction, the latest first"
    return Table.of(caption, rows, columns, folded=len(rows) > MAX_OPEN_ROWS, stacked=True)


def _observed(row: Row) -> Interval | float | None:
    if row["observed"] is None or row["low"] is None or row["high"] is None:
        found: float | None = row["observed"]
        return found
    return Interval(row["observed"], row["low"], row["high"])


def _prediction(row: Row) -> Prediction:
    return Prediction(
        metric=row["metric"], comparator=row["comparator"], threshold=row["threshold"], reference=row["reference_id"]
    )
