"""Trials without a measurement, with their causes, and what else went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.orchestrator.pages.blocks import Block, Columns, Num, Paragraph, Ref, Table, Tag
from swarm.orchestrator.views.source import Source

TITLE = "Failures"
PLACE = 110
MAX_CAUSES = 60
MAX_EVENTS = 40
MAX_OPEN_ROWS = 10
"""Longer tables are folded."""

_CAUSES = """SELECT outcome, message, COUNT(*) AS trials, MIN(id) AS first, MIN(model) AS model, MIN(state) AS state
FROM trials WHERE campaign_id = {campaign} AND state IN ('failed', 'quarantined')
GROUP BY outcome, message ORDER BY COUNT(*) DESC, MIN(id)"""

_EVENTS = """SELECT e.kind, e.message, e.trial_id, e.created_at FROM events e WHERE e.campaign_id = {campaign}
AND e.kind NOT LIKE 'finding.%' AND e.kind NOT LIKE 'prediction.%' AND e.kind NOT LIKE 'summary.%'
AND e.kind NOT LIKE 'campaign.%' AND e.kind NOT LIKE 'trial.%' ORDER BY e.id DESC"""

_REFUSED = """SELECT proposer, refused, COUNT(*) AS n FROM proposals WHERE campaign_id = {campaign} AND refused <> ''
GROUP BY proposer, refused ORDER BY COUNT(*) DESC"""


def blocks(source: Source) -> Sequence[Block]:
    """A table of causes, of refused proposals, and of other events."""
    causes = source.rows(_CAUSES, MAX_CAUSES)
    found: list[Block] = []
    if causes:
        columns: Columns = {
            "Outcome": lambda row: Tag(row["outcome"], "bad"),
            "Cause": "message",
            Num("Trials"): "trials",
            "The first": lambda row: Ref("trial", row["first"]),
            "Model": "model",
        }
        found.append(Table.of("Trials without a measurement, by cause", causes, columns))
    else:
        found.append(Paragraph("No trial failed." if source.finished else "No trial has ended yet."))
    refused = source.rows(_REFUSED, MAX_CAUSES)
    if refused:
        headings = {"Proposer": "proposer", "Why": "refused", Num("Proposals"): "n"}
        found.append(Table.of("Proposals that were refused", refused, headings, folded=len(refused) > MAX_OPEN_ROWS))
    events = source.rows(_EVENTS, MAX_EVENTS)
    if events:
        columns = {
            "When": lambda row: str(row["created_at"])[:19],
            "What": "kind",
            "Message": "message",
            "Trial": lambda row: Ref("trial", row["trial_id"]) if row["trial_id"] is not None else None,
        }
        folded = len(events) > MAX_OPEN_ROWS
        found.append(Table.of("What else happened, the latest first", events, columns, folded=folded))
    return found
