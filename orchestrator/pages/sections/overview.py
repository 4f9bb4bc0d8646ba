"""What a campaign is and how it stands, in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.orchestrator.console import duration
from swarm.orchestrator.monitor.progress import TARGET_BITS
from swarm.orchestrator.pages.blocks import Bar, Block, Cell, Num, Ref, Table, Tag, Tiles
from swarm.orchestrator.pages.entities import CAMPAIGN_TONES, moment
from swarm.orchestrator.views.source import Source
from swarm.orchestrator.views.status import best

TITLE = "At a glance"
PLACE = 0
RECENT_TRIALS = 50
"""How many of the latest trials the rate is taken from."""


def blocks(source: Source) -> Sequence[Block]:
    """Tiles and the best configuration of each model."""
    return [Tiles(_tiles(source)), *_best(source)]


def _tiles(source: Source) -> list[tuple[str, Cell, Cell]]:
    campaign = source.campaign
    spent = {kind: account.spent for kind, account in source.store.ledger.totals(campaign.id).items()}
    failed = sum(source.counts.get(state, 0) for state in ("failed", "quarantined"))
    statuses = [record.finding.status for record in source.findings]
    pending = [Ref("summary", s.id, f"summary {s.id}") for s in source.summaries if s.summary.state == "pending"]
    tiles: list[tuple[str, Cell, Cell]] = [
        ("State", Tag(campaign.state, CAMPAIGN_TONES[campaign.state]), f"since {moment(campaign.created_at)}"),
        ("Trials", Bar(source.finished, campaign.budget.trials), f"{failed} failed" if failed else "none failed"),
        ("Time", duration(spent.get("seconds")), f"workers {duration(spent.get('worker_seconds'))}"),
        ("Findings", len(statuses), f"{statuses.count('confirmed')} confirmed, {statuses.count('refuted')} refuted"),
        ("Models", len(source.models), ", ".join(source.models)),
    ]
    if campaign.state == "running":
        tiles.insert(2, ("Left", *_eta(source)))
    if pending:
        tiles.append(("To review", len(pending), pending[-1]))
    return tiles


def _eta(source: Source) -> tuple[Cell, Cell]:
    """Time left at the rate of the latest trials, and that rate."""
    rows = source.rows(
        "SELECT finished_at FROM trials WHERE campaign_id = {campaign} AND finished_at IS NOT NULL "
        "AND number >= {first} ORDER BY finished_at DESC",
        RECENT_TRIALS,
        first=max(0, source.finished - 4 * RECENT_TRIALS),
    )
    from datetime import datetime

    ends = [datetime.fromisoformat(str(row["finished_at"])) for row in rows]
    seconds = (ends[0] - ends[-1]).total_seconds() if len(ends) > 1 else 0.0
    if seconds <= 0:
        return "-", "no rate yet"
    rate = (len(ends) - 1) / seconds
    return duration((source.campaign.budget.trials - source.finished) / rate), f"{60 * rate:.1f} trials/min"


def _best(source: Source) -> list[Block]:
    rows = best(source)
    if not rows:
        return []
    return [
        Table.of(
            f"Lowest KLD at no more than {TARGET_BITS} bits/value (KLD compares within a rung: rung 0 quantizes what "
            "is read while decoding, rung 1 the prefill too)",
            rows,
            {
                "Model": "model",
                Num("Rung"): "rung",
                Num("KLD"): "kld",
                Num("Bits/value"): "bits_per_value",
                Num("Same top-1"): "same_top1",
                "Configuration": "configuration",
                "Trial": lambda row: Ref("trial", row["trial_id"]),
                "Proposer": "proposer",
            },
            stacked=True,
        )
    ]
