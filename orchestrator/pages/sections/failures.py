"""Trials without a measurement, with their causes, and what else went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Column, Paragraph, Ref, Table, Tag
from swarm.orchestrator.views.source import Source

MOST = 60
MOST_EVENTS = 40

_CAUSES = """SELECT outcome, message, COUNT(*) AS trials, MIN(id) AS first, MIN(model) AS model, MIN(state) AS state
FROM trials WHERE campaign_id = {campaign} AND state IN ('failed', 'quarantined')
GROUP BY outcome, message ORDER BY COUNT(*) DESC, MIN(id)"""

_EVENTS = """SELECT e.kind, e.message, e.trial_id, e.created_at FROM events e WHERE e.campaign_id = {campaign}
AND e.kind NOT LIKE 'finding.%' AND e.kind NOT LIKE 'prediction.%' AND e.kind NOT LIKE 'summary.%'
AND e.kind NOT LIKE 'campaign.%' AND e.kind NOT LIKE 'trial.%' ORDER BY e.id DESC"""

_REFUSED = """SELECT proposer, refused, COUNT(*) AS n FROM proposals WHERE campaign_id = {campaign} AND refused <> ''
GROUP BY proposer, refused ORDER BY COUNT(*) DESC"""


class Failures(Section):
    """Causes, refused proposals, and the log of trouble."""

    name: ClassVar[str] = "failures"
    title: ClassVar[str] = "Failures"
    place: ClassVar[int] = 110

    def blocks(self, source: Source) -> Sequence[Block]:
        """A table of causes, of refused proposals, and of other events."""
        causes = source.rows(_CAUSES, MOST)
        found: list[Block] = []
        if causes:
            columns = [Column("Outcome"), Column("Cause"), Column("Trials", True), Column("The first"), Column("Model")]
            rows = [
                [Tag(r["outcome"], "bad"), r["message"], r["trials"], Ref("trial", r["first"]), r["model"]]
                for r in causes
            ]
            found.append(Table("Trials without a measurement, by cause", columns, rows))
        else:
            found.append(Paragraph("No trial failed." if source.finished else "No trial has ended yet."))
        refused = source.rows(_REFUSED, MOST)
        if refused:
            columns = [Column("Proposer"), Column("Why"), Column("Proposals", True)]
            rows = [[row["proposer"], row["refused"], row["n"]] for row in refused]
            found.append(Table("Proposals that were refused", columns, rows, folded=len(rows) > 10))
        events = source.rows(_EVENTS, MOST_EVENTS)
        if events:
            columns = [Column("When"), Column("What"), Column("Message"), Column("Trial")]
            rows = [
                [
                    str(row["created_at"])[:19], row["kind"], row["message"],
                    Ref("trial", row["trial_id"]) if row["trial_id"] is not None else None,
                ]
                for row in events
            ]  # fmt: skip
            found.append(Table("What else happened, the latest first", columns, rows, folded=len(rows) > 10))
        return found
