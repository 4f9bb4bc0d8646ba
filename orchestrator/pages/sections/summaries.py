"""What the agents wrote for people, every number linked to what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.orchestrator.pages import markup
from swarm.orchestrator.pages.blocks import Block, Columns, Heading, Paragraph, Prose, Ref, Table, Tag
from swarm.orchestrator.pages.entities import REVIEW_TONES, moment
from swarm.orchestrator.views.source import Source, TooMuchError

if TYPE_CHECKING:
    from swarm.memory.records import SummaryRecord


TITLE = "Summaries"
PLACE = 80


def blocks(source: Source) -> Sequence[Block]:
    """The newest text, and a table of all."""
    if not source.summaries:
        return []
    newest = source.summaries[-1]
    heading = Heading(f"Summary {newest.id}", Ref("summary", newest.id), review_tag(newest))
    found: list[Block] = [heading, *text(newest, source)]
    if len(source.summaries) > 1:
        columns: Columns = {
            "Summary": lambda record: Ref("summary", record.id),
            "Title": lambda record: record.summary.title,
            "Review": review_tag,
            "Reviewer": lambda record: record.reviewer,
            "Note": lambda record: record.note,
            "Written": lambda record: moment(record.created_at),
        }
        found.append(Table.of("All summaries, the latest first", reversed(source.summaries), columns))
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
