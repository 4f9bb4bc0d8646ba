"""A summary's page: the text with every number linked, and what people said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.orchestrator.pages.blocks import Block, Cell, Column, Facts, Page, Part, Ref, Refs, Table, Tag
from swarm.orchestrator.pages.cells import moment
from swarm.orchestrator.pages.entities import REVIEW_TONES
from swarm.orchestrator.pages.sections.summaries import review_tag, text
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.store import Store

MOST = 100

_REVIEWS = """SELECT state, reviewer, note, created_at FROM reviews WHERE summary_id = {summary} ORDER BY id DESC"""


def page(store: Store, identity: int) -> Page:
    """The page of a summary.

    Raises:
        UnknownNameError: there is none.
    """
    record = store.summaries.get(identity)
    campaign = store.campaigns.get(record.campaign_id)
    source = Source(store, campaign, PAGE)
    evidence = tuple(Ref("trial", trial, str(trial), f"trial {trial}") for trial in record.summary.evidence)
    facts = Facts(
        {
            "Review": review_tag(record),
            "Author": record.summary.author,
            "Written": moment(record.created_at),
            "Campaign": Ref("campaign", campaign.id, campaign.name),
            "Rests on trials": Refs(evidence, 40) if evidence else None,
        }
    )
    blocks: list[Block] = [facts, *text(record, source)]
    parts = [Part("text", "What it says", blocks), *_reviews(source, identity)]
    crumbs = (Ref("campaign", campaign.id, campaign.name), Ref("campaign", campaign.id, "summaries", place="summaries"))
    return Page(f"Summary {record.id}", parts, record.summary.title, crumbs)


def _reviews(source: Source, identity: int) -> list[Part]:
    columns = [Column("When"), Column("Review"), Column("Reviewer"), Column("Note")]
    rows: list[list[Cell]] = [
        [str(row["created_at"])[:19], Tag(row["state"], REVIEW_TONES[row["state"]]), row["reviewer"], row["note"]]
        for row in source.rows(_REVIEWS, MOST, summary=identity)
    ]
    return [Part("reviews", "Reviews", [Table("The latest first", columns, rows)])] if rows else []
