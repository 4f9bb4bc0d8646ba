"""A summary's page: the text with every number linked, and what people said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.orchestrator.pages.blocks import Block, Columns, Facts, Page, PagePart, Ref, Table, Tag
from swarm.orchestrator.pages.entities import REVIEW_TONES, crumbs, moment, trials
from swarm.orchestrator.pages.sections.summaries import review_tag, text
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.store import Store

MAX_REVIEWS = 100

_REVIEWS = """SELECT state, reviewer, note, created_at FROM reviews WHERE summary_id = {summary} ORDER BY id DESC"""


def page(store: Store, identity: int) -> Page:
    """The page of a summary.

    Raises:
        UnknownNameError: there is none.
    """
    record = store.summaries.get(identity)
    campaign = store.campaigns.get(record.campaign_id)
    source = Source(store, campaign, PAGE)
    facts = Facts(
        {
            "Review": review_tag(record),
            "Author": record.summary.author,
            "Written": moment(record.created_at),
            "Campaign": Ref("campaign", campaign.id, campaign.name),
            "Rests on trials": trials(record.summary.evidence, 40) if record.summary.evidence else None,
        }
    )
    blocks: list[Block] = [facts, *text(record, source)]
    parts = [PagePart("text", "What it says", blocks), *_reviews(source, identity)]
    return Page(f"Summary {record.id}", parts, record.summary.title, crumbs(campaign, place="summaries"))


def _reviews(source: Source, identity: int) -> list[PagePart]:
    rows = source.rows(_REVIEWS, MAX_REVIEWS, summary=identity)
    columns: Columns = {
        "When": lambda row: str(row["created_at"])[:19],
        "Review": lambda row: Tag(row["state"], REVIEW_TONES[row["state"]]),
        "Reviewer": "reviewer",
        "Note": "note",
    }
    return [PagePart("reviews", "Reviews", [Table.of("The latest first", rows, columns)])] if rows else []
