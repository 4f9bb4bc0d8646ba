"""Makes the report of a campaign: one HTML text that needs nothing else."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from markupsafe import Markup

from swarm.orchestrator.pages import render
from swarm.orchestrator.pages.base import campaign_page
from swarm.orchestrator.pages.blocks import Page, PagePart, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import TRIALS
from swarm.orchestrator.pages.render import Links
from swarm.orchestrator.views.source import REPORT, Source

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store

MAX_TRIALS = 2_000
"""Trials in the appendix; those that the report links to come first."""


@dataclass
class InFile(Links):
    """Links to places in the same file; notes which trials they lead to."""

    trials: set[int] = field(default_factory=set)

    def url(self, ref: Ref) -> str:
        """An anchor."""
        if ref.kind == "campaign":
            return f"#{ref.place}" if ref.place else ""
        if ref.kind == "trial":
            self.trials.add(ref.id)
        return f"#{ref.kind}-{ref.id}"


def build(store: Store, campaign: CampaignRecord) -> str:
    """The report of a campaign as HTML.

    Args:
        store: the store.
        campaign: the campaign.
    """
    source = Source(store, campaign, REPORT)
    page = campaign_page(source)
    links = InFile()
    _render(page, links)  # finds out which trials the page links to
    page = replace(page, subtitle="Report of a campaign", parts=[*page.parts, *_appendix(source, links.trials)])
    return _render(page, links)


def _render(page: Page, links: InFile) -> str:
    packed = render.has_charts(page)
    style, theme, app = (Markup(render.asset(name)) for name in ("app.css", "theme.js", "app.js"))  # noqa: S704 - our files
    unpack = Markup(render.asset("unpack.js"))  # noqa: S704
    pieces: list[bytes | str] = [theme, app]
    pieces += [unpack, render.plotly()] if packed else []
    policy = (
        f"default-src 'none'; script-src {' '.join(map(render.digest, pieces))}; "
        f"style-src {render.digest(style)} {render.EMPTY_STYLE}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return render.render(
        "report.html",
        links,
        page,
        policy=policy,
        style=style,
        theme=theme,
        app=app,
        unpack=unpack,
        packed=Markup(_packed()) if packed else "",  # noqa: S704 - base64
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _packed() -> str:
    """Plotly's script, compressed: a third of its size, also as base64."""
    return base64.b64encode(gzip.compress(render.plotly(), 9, mtime=0)).decode()


def _appendix(source: Source, linked: Iterable[int]) -> list[PagePart]:
    """Every trial as a row, or those that the page links to and as many others as fit."""
    wanted = sorted(linked)
    records = source.store.trials.list(ids=wanted[:MAX_TRIALS], arrays=False) if wanted else []
    if source.total <= MAX_TRIALS:
        known = {record.id for record in records}
        others = source.store.trials.list(source.campaign.id, arrays=False)
        records += [record for record in others if record.id not in known]
    if not records:
        return []
    records.sort(key=lambda record: record.id)
    text = "In a terminal, “swarm show trial ID” tells all about one and “swarm reproduce ID” runs it again."
    if len(records) < source.total:
        text = f"{len(records):,} of {source.total:,} trials, those that this report refers to. {text}"
    anchors = [Ref("trial", record.id) for record in records]
    table = Table.of("Trials", records, TRIALS, folded=True, anchors=anchors)
    return [PagePart("trials", "Trials", [Paragraph(text), table])]
