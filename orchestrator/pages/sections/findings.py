"""The findings with their status, effect and evidence."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.orchestrator.pages.blocks import Block, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import FINDINGS
from swarm.orchestrator.views.source import Source

TITLE = "Findings"
PLACE = 70
AGENDA = "agenda"
HEADINGS = {
    "confirmed": "Confirmed by replication",
    "hypothesis": "Open: seen, not replicated yet",
    "refuted": "Refuted: seen once, gone now",
}
MAX_OPEN_ROWS = 15


def blocks(source: Source) -> Sequence[Block]:
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
        Table.of(
            f"{heading}: {len(records)}",
            records,
            FINDINGS,
            folded=len(records) > MAX_OPEN_ROWS,
            anchors=[Ref("finding", record.id) for record in records],
            stacked=True,
        )
        for heading, records in groups.items()
        if records
    ]
    return [Paragraph(text), *tables]
