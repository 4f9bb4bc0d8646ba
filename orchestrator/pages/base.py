"""The page of a campaign: one section per module of `sections`, which has a `TITLE`, a `PLACE` and `blocks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.kernels import plugins
from swarm.orchestrator.pages.blocks import Block, Page, PagePart, Paragraph, Ref
from swarm.orchestrator.views.source import Source, TooMuchError

PACKAGE = "swarm.orchestrator.pages.sections"


@dataclass(frozen=True)
class Section:
    """One part of what is told about a campaign.

    Attributes:
        name: the module's name, and the anchor on the page.
        title: the heading.
        place: where it stands; smaller is earlier.
        blocks: what there is to show; nothing leaves the section out. Raises `TooMuchError` where it would read more
            than a page may; the page then says so.
    """

    name: str
    title: str
    place: int
    blocks: Callable[[Source], Sequence[Block]]


def sections() -> list[Section]:
    """Every section, in order."""
    modules = plugins.modules(PACKAGE, ("TITLE", "PLACE", "blocks")).items()
    found = [Section(name, module.TITLE, module.PLACE, module.blocks) for name, module in modules]
    return sorted(found, key=lambda section: section.place)


def campaign_page(source: Source) -> Page:
    """All sections of a campaign."""
    parts = []
    for section in sections():
        try:
            blocks = section.blocks(source)
        except TooMuchError as error:
            blocks = [Paragraph(str(error), "warn")]
        if blocks:
            parts.append(PagePart(section.name, section.title, blocks))
    crumbs = (Ref("campaign", source.campaign.id, "all trials", place="trials"),)
    return Page(source.campaign.name, parts, crumbs=crumbs)
