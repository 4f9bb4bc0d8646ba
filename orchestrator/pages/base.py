"""The seam of a campaign page's sections: one file in `sections` is one of them. Knows no HTML."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from swarm.kernels import plugins
from swarm.orchestrator.pages.blocks import Block, Page, Paragraph, Part, Ref
from swarm.orchestrator.views.source import Source, TooMuchError

PACKAGE = "swarm.orchestrator.pages.sections"


class Section(ABC):
    """One part of what is told about a campaign.

    Attributes:
        name: the module's name, and the anchor on the page.
        title: the heading.
        place: where it stands; smaller is earlier.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    place: ClassVar[int]

    @abstractmethod
    def blocks(self, source: Source) -> Sequence[Block]:
        """What there is to show; nothing leaves the section out.

        Raises:
            TooMuchError: it would read more than a page may; the page then says so.
        """


def sections() -> list[Section]:
    """Every section, in order."""
    found = plugins.load_all(PACKAGE, Section)  # type: ignore[type-abstract]
    return sorted((kind() for kind in found.values()), key=lambda section: (section.place, section.name))


def campaign_page(source: Source) -> Page:
    """All sections of a campaign."""
    parts = []
    for section in sections():
        try:
            blocks = section.blocks(source)
        except TooMuchError as error:
            blocks = [Paragraph(str(error), "warn")]
        if blocks:
            parts.append(Part(section.name, section.title, blocks))
    crumbs = (Ref("campaign", source.campaign.id, "all trials", place="trials"),)
    return Page(source.campaign.name, parts, crumbs=crumbs)
