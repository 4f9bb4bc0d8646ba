"""The findings with their status, effect and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import FINDING_COLUMNS, finding_row
from swarm.orchestrator.views.source import Source

AGENDA = "agenda"
HEADINGS = {
    "confirmed": "Confirmed by replication",
    "hypothesis": "Open: seen, not replicated yet",
    "refuted": "Refuted: seen once, gone now",
}
OPEN_ROWS = 15


class Findings(Section):
    """One table per status; published claims that were tested come first."""

    name: ClassVar[str] = "findings"
    title: ClassVar[str] = "Findings"
    place: ClassVar[int] = 70

    def blocks(self, source: Source) -> Sequence[Block]:
        """The tables."""
        found = source.findings
        if not found:
            return []
        groups = {"Published claims, as tested here": [r for r in found if r.finding.author == AGENDA]}
        for status, heading in HEADINGS.items():
            groups[heading] = [r for r in found if r.finding.status == status and r.finding.author != AGENDA]
        text = (
            "Typed claims with effect sizes. A finding is confirmed by replication alone: on text windows and seeds "
            "that nobody had looked at when the claim was made."
        )
        if len(found) == source.bounds.findings:
            text += f" These are the first {len(found):,}."
        tables = [
            Table(
                f"{heading}: {len(records)}",
                FINDING_COLUMNS,
                [finding_row(record) for record in records],
                folded=len(records) > OPEN_ROWS,
                anchors=[Ref("finding", record.id) for record in records],
                stacked=True,
            )
            for heading, records in groups.items()
            if records
        ]
        return [Paragraph(text), *tables]
