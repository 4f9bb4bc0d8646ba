"""What holds for one model and not for another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import log10
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Column, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import finding_row
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.memory.records import FindingRecord

MOST = 800
MOST_EFFECTS = 24
MOST_PAIRS = 6

_PAIRS = """SELECT model_a, model_b, rung, configuration, trial_a, trial_b, kld_a, kld_b, bits_a, ratio FROM transfer
WHERE campaign_id = {campaign} AND protocol = 'quality' AND replicate = 0 AND kld_a > 0 AND kld_b > 0
ORDER BY model_a, model_b, trial_a"""


class Contrasts(Section):
    """KLD on one model against KLD on another, and the effects that were found."""

    name: ClassVar[str] = "contrasts"
    title: ClassVar[str] = "Models against each other"
    place: ClassVar[int] = 40

    def blocks(self, source: Source) -> Sequence[Block]:
        """A scatter plot per pair of models, and the measured contrasts with their intervals."""
        if len(source.models) < 2:
            return []
        found: list[Chart] = []
        groups = groupby(source.rows(_PAIRS, MOST), key=lambda row: (str(row["model_a"]), str(row["model_b"])))
        found += [_pair(a, b, list(rows)) for (a, b), rows in groups][:MOST_PAIRS]
        found += _effects(source)
        if not found:
            return [Paragraph("No configuration was measured on two models yet.")]
        return [
            Paragraph(
                "Each point is one configuration measured on both models; on the dashed line they do equally well. "
                "Effects are ratios with 95% intervals: left of 1 is what the statement claims."
            ),
            Charts(found),
        ]


def _pair(a: str, b: str, rows: Sequence[dict[str, Any]]) -> Chart:
    traces = []
    for rung in sorted({int(row["rung"]) for row in rows}):
        mine = [row for row in rows if row["rung"] == rung]
        traces.append(
            charts.points(
                f"rung {rung}",
                [row["kld_a"] for row in mine],
                [row["kld_b"] for row in mine],
                colour=charts.PALETTE[rung % len(charts.PALETTE)],
                symbol=charts.SYMBOLS[rung % len(charts.SYMBOLS)],
                texts=[
                    f"{row['configuration']} · {row['bits_a']:.3g} bits · trials {row['trial_a']} and {row['trial_b']}"
                    for row in mine
                ],
                ids=[row["trial_b"] for row in mine],
            )
        )
    low = min(min(row["kld_a"], row["kld_b"]) for row in rows)
    high = max(max(row["kld_a"], row["kld_b"]) for row in rows)
    line = charts.dashed(x0=low, y0=low, x1=high, y1=high)
    worse = sum(row["kld_b"] > row["kld_a"] for row in rows)
    columns = [Column("Configuration"), Column("Rung", True), Column(f"KLD on {a}", True), Column(f"KLD on {b}", True)]
    columns += [Column("Ratio", True), Column("Trials")]
    table = [
        [
            row["configuration"], row["rung"], row["kld_a"], row["kld_b"], row["ratio"],
            Ref("trial", row["trial_b"]),
        ]
        for row in sorted(rows, key=lambda row: -abs(log10(row["ratio"])))
    ]  # fmt: skip
    return Chart(
        f"{a} against {b}",
        f"Of {len(rows)} configurations measured on both, {worse} have the higher KLD on {b}.",
        traces,
        charts.layout(
            charts.log_axis(f"KLD on {a}", [row["kld_a"] for row in rows]),
            charts.log_axis(f"KLD on {b}", [row["kld_b"] for row in rows]),
            400,
            shapes=[line],
        ),
        Table(f"The same configuration on {a} and {b}", columns, table, folded=True),
    )


def _effects(source: Source) -> list[Chart]:
    found = [
        record
        for record in source.findings
        if record.finding.effect is not None
        and len(record.finding.models) > 1
        and record.finding.effect.unit == "ratio"
        and record.finding.effect.low > 0
    ]
    found = sorted(found, key=_clarity)[-MOST_EFFECTS:]
    if not found:
        return []
    traces = []
    places = {record.id: place for place, record in enumerate(found)}
    for status, colour in charts.STATUSES.items():
        mine = [record for record in found if record.finding.status == status]
        if mine:
            traces.append(_forest(status, mine, colour, places))
    axis = charts.axis(
        "", tickvals=list(places.values()), ticktext=[f"finding {identity}" for identity in places], showgrid=False
    )
    columns = [Column("Finding"), Column("Status"), Column("Statement"), Column("Effect", True), Column("Evidence")]
    confirmed = sum(record.finding.status == "confirmed" for record in found)
    return [
        Chart(
            "Effects between models",
            f"{len(found)} effects between models as ratios with intervals; {confirmed} are confirmed by replication.",
            traces,
            charts.layout(
                charts.log_axis("ratio, 95% interval", _ends(found)),
                axis,
                150 + 18 * len(found),
                shapes=[charts.upright(1)],
            ),
            Table("Effects between models", columns, [finding_row(r) for r in reversed(found)], folded=True),
        )
    ]


def _ends(records: Sequence[FindingRecord]) -> list[float]:
    effects = [record.finding.effect for record in records if record.finding.effect is not None]
    return [end for effect in effects for end in (effect.low, effect.high)] + [1.0]


def _forest(status: str, records: Sequence[FindingRecord], colour: str, places: dict[int, int]) -> dict[str, Any]:
    effects = [record.finding.effect for record in records if record.finding.effect is not None]
    values = [effect.value for effect in effects]
    trace = charts.points(
        status,
        values,
        [places[record.id] for record in records],
        colour=colour,
        texts=[
            f"{record.finding.statement} {effect.value:.3g} [{effect.low:.3g}, {effect.high:.3g}]"
            for record, effect in zip(records, effects, strict=True)
        ],
    )
    return trace | {"error_x": charts.spread([e.low for e in effects], values, [e.high for e in effects])}


def _clarity(record: FindingRecord) -> float:
    """How far the interval stays from 1, in decades."""
    effect = record.finding.effect
    if effect is None:
        return 0.0
    return max(-log10(effect.high), log10(effect.low))
