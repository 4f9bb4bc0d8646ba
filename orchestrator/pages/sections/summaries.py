"""What the agents wrote for people, every number linked to what it rests on: the beginning of a campaign's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.orchestrator.pages import markup
from swarm.orchestrator.pages.blocks import Block, Columns, Heading, Paragraph, Prose, Ref, Table, Tag
from swarm.orchestrator.pages.entities import REVIEW_TONES, moment
from swarm.orchestrator.views.source import Source, TooMuchError

if TYPE_CHECKING:
    from swarm.memory.records import SummaryRecord


TITLE = "What to use, and what was learnt"
PLACE = -10


def blocks(source: Source) -> Sequence[Block]:
    """The newest text without its appendices, which the rest of the page shows, and a table of all."""
    if not source.summaries:
        return []
    newest = source.summaries[-1]
    heading = Heading(f"Summary {newest.id}", Ref("summary", newest.id), review_tag(newest))
    found: list[Block] = [heading, *text(newest, source, whole=False)]
    if len(source.summaries) > 1:
        columns: Columns = {
            "Summary": lambda record: Ref("summary", record.id),
            "Title": lambda record: record.summary.title,
            "Review": review_tag,
            "Reviewer": lambda record: record.reviewer,
            "Note": lambda record: record.note,
            "Written": lambda record: moment(record.created_at),
        }
        found.append(Table.of("All summaries, the latest first", reversed(source.summaries), columns, folded=True))
    return found


def text(record: SummaryRecord, source: Source, *, whole: bool = True) -> list[Paragraph | Prose]:
    """A summary's text, its appendices where the `whole` is wanted, its references resolved from the store of now."""
    from swarm.agents.writing.summary import body

    written = record.summary.text if whole else body(record.summary.text)
    try:
        return [markup.resolved(written, source.resolver, record.campaign_id)]
    except TooMuchError as error:
        return [Paragraph(str(error), "warn"), markup.unresolved(written)]


def review_tag(record: SummaryRecord) -> Tag:
    """What people said of a summary."""
    return Tag(record.summary.state, REVIEW_TONES.get(record.summary.state, "plain"))
