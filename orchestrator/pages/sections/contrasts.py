"""What holds for one model and not for another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import log10
from typing import TYPE_CHECKING, Any

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Charts, Interval, Num, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import FINDINGS
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.memory.records import Effect

TITLE = "Models against each other"
PLACE = 40
MAX_ROWS = 800
MAX_EFFECTS = 24
MAX_PAIRS = 6

_PAIRS = """SELECT model_a, model_b, rung, configuration, trial_a, trial_b, kld_a, kld_b, bits_a, ratio FROM transfer
WHERE campaign_id = {campaign} AND protocol = 'quality' AND replicate = 0 AND kld_a > 0 AND kld_b > 0
ORDER BY model_a, model_b, trial_a"""


def blocks(source: Source) -> Sequence[Block]:
    """A scatter plot per pair of models, and the measured contrasts with their intervals."""
    if len(source.models) < 2:
        return []
    found: list[Chart] = []
    groups = groupby(source.rows(_PAIRS, MAX_ROWS), key=lambda row: (str(row["model_a"]), str(row["model_b"])))
    found += [_pair(a, b, list(rows)) for (a, b), rows in groups][:MAX_PAIRS]
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
                **charts.style(rung),
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
    table = Table.of(
        f"The same configuration on {a} and {b}",
        sorted(rows, key=lambda row: -abs(log10(row["ratio"]))),
        {
            "Configuration": "configuration",
            Num("Rung"): "rung",
            Num(f"KLD on {a}"): "kld_a",
            Num(f"KLD on {b}"): "kld_b",
            Num("Ratio"): "ratio",
            "Trials": lambda row: Ref("trial", row["trial_b"]),
        },
        folded=True,
    )
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
        table,
    )


def _effects(source: Source) -> list[Chart]:
    found = [
        (record, effect)
        for record in source.findings
        if (effect := record.finding.effect) is not None
        and len(record.finding.models) > 1
        and effect.unit == "ratio"
        and effect.low > 0
    ]
    found = sorted(found, key=lambda each: _clarity(each[1]))[-MAX_EFFECTS:]
    if not found:
        return []
    traces = []
    places = {record.id: place for place, (record, _) in enumerate(found)}
    for status, colour in charts.STATUSES.items():
        mine = [each for each in found if each[0].finding.status == status]
        if not mine:
            continue
        traces.append(
            charts.points(
                status,
                [Interval(effect.value, effect.low, effect.high) for _, effect in mine],
                [places[record.id] for record, _ in mine],
                colour=colour,
                texts=[f"{r.finding.statement} {e.value:.3g} [{e.low:.3g}, {e.high:.3g}]" for r, e in mine],
            )
        )
    ends = [end for _, effect in found for end in (effect.low, effect.high)]
    confirmed = sum(record.finding.status == "confirmed" for record, _ in found)
    return [
        Chart(
            "Effects between models",
            f"{len(found)} effects between models as ratios with intervals; {confirmed} are confirmed by replication.",
            traces,
            charts.layout(
                charts.log_axis("ratio, 95% interval", [*ends, 1.0]),
                charts.named_axis("finding", places),
                150 + 18 * len(found),
                shapes=[charts.upright(1)],
            ),
            Table.of("Effects between models", [record for record, _ in reversed(found)], FINDINGS, folded=True),
        )
    ]


def _clarity(effect: Effect) -> float:
    """How far the interval stays from 1, in decades."""
    return max(-log10(effect.high), log10(effect.low))
