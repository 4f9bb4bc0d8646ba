"""A campaign's page, made again only when the store has changed, and no more often than its making allows."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from swarm.orchestrator.pages.base import campaign_page
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store

POLL_MS = 4_000
"""Milliseconds between two questions of a page whose campaign runs."""

MIN_REST = 10
"""A page of a running campaign stays for so many times as long as it took to make: at most a tenth of a core."""

MAX_KEPT_PAGES = 16


@dataclass(frozen=True)
class Made:
    """A page as it was sent."""

    stamp: str
    tag: str
    body: bytes
    at: float
    took: float


class Live:
    """Answers for campaign pages.

    Args:
        store: where campaigns are read.
        html: renders a page.
    """

    def __init__(self, store: Store, html: Callable[..., Response]) -> None:
        self._store = store
        self._html = html
        self._made: OrderedDict[int, Made] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, request: Request, campaign: CampaignRecord) -> Response:
        """The page, or 304 when the browser has it already."""
        made = self._current(campaign)
        headers = {"ETag": made.tag, "Cache-Control": "no-store"}
        if request.headers.get("if-none-match") == made.tag:
            return Response(status_code=304, headers=headers)
        return Response(made.body, media_type="text/html", headers=headers)

    def _current(self, campaign: CampaignRecord) -> Made:
        with self._lock:  # one at a time: several tabs wait for one page instead of making it each
            made = self._made.get(campaign.id)
            stamp = self._stamp(campaign)
            rests = made is not None and time.monotonic() - made.at < MIN_REST * made.took
            if made is not None and (made.stamp == stamp or (campaign.state == "running" and rests)):
                return made
            started = time.monotonic()
            source = Source(self._store, campaign, PAGE)
            every = POLL_MS if campaign.state == "running" else 0
            tag = f'"{stamp}"'
            body = bytes(self._html(campaign_page(source), tag=tag, every=every).body)
            now = time.monotonic()
            self._made[campaign.id] = Made(stamp, tag, body, now, now - started)
            self._made.move_to_end(campaign.id)
            while len(self._made) > MAX_KEPT_PAGES:
                self._made.popitem(last=False)
            return self._made[campaign.id]

    def _stamp(self, campaign: CampaignRecord) -> str:
        """Changes whenever something in the campaign does."""
        latest = self._store.events.list(campaign.id, newest=True, limit=1)
        counts = sorted(self._store.trials.count(campaign.id).items())
        text = repr((campaign, counts, latest[-1].id if latest else 0))
        return hashlib.sha256(text.encode()).hexdigest()[:32]
