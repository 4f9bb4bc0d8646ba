"""What the agents wrote for people, every number linked to what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from swarm.orchestrator.pages import markup
from swarm.orchestrator.pages.base import Section
from swarm.orchestrator.pages.blocks import Block, Column, Heading, Paragraph, Prose, Ref, Table, Tag
from swarm.orchestrator.pages.cells import moment
from swarm.orchestrator.pages.entities import REVIEW_TONES
from swarm.orchestrator.views.source import Source, TooMuchError

if TYPE_CHECKING:
    from swarm.memory.records import SummaryRecord


class Summaries(Section):
    """The newest summary in full, the others by name."""

    name: ClassVar[str] = "summaries"
    title: ClassVar[str] = "Summaries"
    place: ClassVar[int] = 80

    def blocks(self, source: Source) -> Sequence[Block]:
        """The newest text, and a table of all."""
        if not source.summaries:
            return []
        newest = source.summaries[-1]
        heading = Heading(f"Summary {newest.id}", Ref("summary", newest.id), review_tag(newest))
        found: list[Block] = [heading, *text(newest, source)]
        if len(source.summaries) > 1:
            columns = [Column("Summary"), Column("Title"), Column("Review"), Column("Reviewer"), Column("Note")]
            columns += [Column("Written")]
            rows = [
                [Ref("summary", r.id), r.summary.title, review_tag(r), r.reviewer, r.note, moment(r.created_at)]
                for r in reversed(source.summaries)
            ]
            found.append(Table("All summaries, the latest first", columns, rows))
        return found


def text(record: SummaryRecord, source: Source) -> list[Paragraph | Prose]:
    """A summary's text with its references resolved from the store as it is now."""
    try:
        return [markup.resolved(record.summary.text, source.resolver, record.campaign_id)]
    except TooMuchError as error:
        return [Paragraph(str(error), "warn"), markup.unresolved(record.summary.text)]


def review_tag(record: SummaryRecord) -> Tag:
    """What people said of a summary."""
    return Tag(record.summary.state, REVIEW_TONES.get(record.summary.state, "plain"))
