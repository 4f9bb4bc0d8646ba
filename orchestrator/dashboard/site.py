"""The dashboard's routes: each reads the store, makes a page, and renders it. `guard` decides who gets an answer."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from swarm.experiments.protocols import base as protocols
from swarm.kernels import plugins
from swarm.kernels.errors import SwarmError, UnknownNameError, UsageError
from swarm.memory import text
from swarm.memory.errors import StoreError
from swarm.orchestrator.dashboard.guard import Guard
from swarm.orchestrator.dashboard.live import Live
from swarm.orchestrator.pages import finding, listings, recommendation, render, summary, trial
from swarm.orchestrator.pages.blocks import Page, PagePart, Paragraph, Ref
from swarm.orchestrator.pages.render import Links
from swarm.orchestrator.views.recommendation import known_models
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord, ReviewState
    from swarm.memory.store import Store

MAX_FORM_BYTES = 64_000
MAX_IDENTITY = 2**62
"""Identities beyond it are none of a database."""
ASSETS = {
    "app.css": "text/css",
    "app.js": "text/javascript",
    "theme.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
VERDICTS: Mapping[str, ReviewState | None] = {"accept": "accepted", "reject": "rejected", "note": None}


class OnServer(Links):
    """Links to pages of the dashboard."""

    def url(self, ref: Ref) -> str:
        """A path."""
        if ref.kind == "campaign" and ref.place == "trials":
            return f"/campaigns/{ref.id}/trials"
        return f"/{PATHS[ref.kind]}/{ref.id}" + (f"#{ref.place}" if ref.place else "")


PATHS = {"campaign": "campaigns", "trial": "trials", "finding": "findings", "summary": "summaries"}


@dataclass(frozen=True)
class Site:
    """The pages of one store.

    Args:
        store: open for reading.
        writable: opens the store for writing; called for each review.
        reviewer: whose name a review carries unless the form says another.
        csrf: tells what a form must send back.
    """

    store: Store
    writable: Callable[[], Store]
    reviewer: str
    csrf: Callable[[], str]

    def app(self) -> Starlette:
        """The application, without its guard."""
        live = Live(self.store, self._html)
        pages: list[tuple[str, Callable[[Request], Any]]] = [
            ("/", lambda _: listings.campaigns(self.store)),
            ("/trials/{id:int}", lambda request: trial.page(self.store, request.path_params["id"])),
            ("/findings", self._findings),
            ("/recommend", self._recommend),
            ("/findings/{id:int}", lambda request: finding.page(self.store, request.path_params["id"])),
            ("/campaigns/{name}/trials", self._trials),
            ("/summaries/{id:int}", self._summary),
        ]
        routes = [Route(path, self._page(make)) for path, make in pages]
        routes += [
            Route("/campaigns/{name}", self._guarded(lambda request: live.answer(request, self._campaign(request)))),
            Route("/trials/{id:int}.json", self._guarded(self._trial_json)),
            Route("/summaries/{id:int}/review", self._review, methods=["POST"]),
            Route("/static/{name}", _static),
        ]
        return Starlette(routes=routes, exception_handlers={404: self._missing, 500: self._defect})

    def _html(self, page: Page, status: int = 200, **context: Any) -> HTMLResponse:
        shown = {"tag": "", "every": 0, "form": None, "filters": None, "further": "", "words": "", **context}
        html = render.render(
            "dashboard.html", OnServer(), page, versions=_versions(), charts=render.has_charts(page), **shown
        )
        return HTMLResponse(html, status)

    def _page(self, make: Callable[[Request], Page | Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            made = make(request)
            return made if isinstance(made, Response) else self._html(made)

        return self._guarded(answer)

    def _guarded(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Expected errors as pages. Starlette runs it in a thread, so that a slow page holds up no other."""

        def guarded(request: Request) -> Response:
            try:
                if request.path_params.get("id", 0) > MAX_IDENTITY:
                    raise UnknownNameError("page", request.url.path[:200])
                return answer(request)
            except SwarmError as error:
                return self._error(error)

        return guarded

    def _error(self, error: SwarmError) -> Response:
        status = 404 if isinstance(error, UnknownNameError) else 400 if isinstance(error, UsageError) else 503
        title = (
            "Not found" if status == 404 else "The store cannot be read" if isinstance(error, StoreError) else "Error"
        )
        page = Page(title, [PagePart("error", "What went wrong", [Paragraph(str(error), "bad")])])
        return self._html(page, status)

    async def _missing(self, request: Request, _: Exception) -> Response:
        return self._error(UnknownNameError("page", request.url.path))

    async def _defect(self, _request: Request, error: Exception) -> Response:
        said = f"Unexpected {type(error).__name__}: a defect of swarm. Its log is where the dashboard was started."
        return self._html(Page("Error", [PagePart("error", "What went wrong", [Paragraph(said, "bad")])]), 500)

    def _campaign(self, request: Request) -> CampaignRecord:
        return self.store.campaigns.get(text.name(request.path_params["name"]) or "-")

    def _trials(self, request: Request) -> Response:
        campaign = self._campaign(request)
        asked = {name: text.name(request.query_params.get(name, "")) for name in ("model", "protocol", "state")}
        order = request.query_params.get("order", "") or "number"
        choice = listings.Choice(**asked, order=order, after=_number(request.query_params.get("after", "-1")))
        page, further = listings.trials(self.store, campaign, choice)
        kept = {name: value for name, value in {**asked, "order": order}.items() if value}
        more = f"?{urlencode({**kept, 'after': further})}" if further is not None else ""
        source = Source(self.store, campaign, PAGE)
        options = {
            "model": source.models,
            "protocol": plugins.names(protocols.PACKAGE),
            "state": sorted(source.counts),
            "order": listings.ORDERS,
        }
        filters = {"options": options, "chosen": {**asked, "order": order}}
        return self._html(page, filters=filters, further=more)

    def _findings(self, request: Request) -> Response:
        words = request.query_params.get("q", "").strip()[:500]
        status = request.query_params.get("status", "")
        name = text.name(request.query_params.get("campaign", ""))
        campaign = self.store.campaigns.get(name) if name else None
        page = listings.findings(self.store, words, status, campaign)
        names = [c.name for c in self.store.campaigns.list()[-50:]]
        options = {"status": ("confirmed", "hypothesis", "refuted"), "campaign": names}
        filters = {"options": options, "chosen": {"status": status, "campaign": name}, "words": words}
        return self._html(page, filters=filters, words=words)

    def _recommend(self, request: Request) -> Response:
        given = {name: request.query_params.get(name, "")[:40] for name in recommendation.FIELDS}
        model = text.name(request.query_params.get("model", ""))
        page = recommendation.page(self.store, model, given)
        options = {"model": list(known_models(self.store))}
        filters = {"options": options, "chosen": {"model": model}, "numbers": given}
        return self._html(page, filters=filters)

    def _summary(self, request: Request) -> Response:
        identity = request.path_params["id"]
        form = {"action": f"/summaries/{identity}/review", "csrf": self.csrf(), "reviewer": self.reviewer}
        return self._html(summary.page(self.store, identity), form=form)

    def _trial_json(self, request: Request) -> Response:
        record = self.store.trials.get(request.path_params["id"])
        return JSONResponse(render.finite(record.model_dump(mode="json")))

    async def _review(self, request: Request) -> Response:
        try:
            form = await _form(request)
            if not hmac.compare_digest(form.get("csrf", "").encode(), self.csrf().encode()):
                raise UsageError("this form is not of this dashboard.", "Open the summary again.")
            await run_in_threadpool(self._decide, request.path_params["id"], form)
        except SwarmError as error:
            return self._error(error)
        return RedirectResponse(f"/summaries/{request.path_params['id']}#reviews", 303)

    def _decide(self, identity: int, form: Mapping[str, str]) -> None:
        verdict, note = form.get("verdict", ""), form.get("note", "").strip()
        if verdict not in VERDICTS:
            raise UnknownNameError("verdict", verdict, ", ".join(VERDICTS))
        if verdict == "note" and not note:
            raise UsageError("the note is empty.", "Write one, or accept or reject the summary.")
        with self.writable() as store:
            state = VERDICTS[verdict] or store.summaries.get(identity).summary.state
            store.summaries.review(identity, state, form.get("reviewer", "").strip() or self.reviewer, note)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        UsageError: it is too large, or no form.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM_BYTES:
            raise UsageError("the form is too large.", "Write a shorter note.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10, errors="strict"))
    except ValueError as error:
        raise UsageError("that is no form of ours.", "Open the summary again.") from error


def _number(given: str) -> int:
    try:
        return max(-1, min(int(given[:12]), 2**31 - 1))
    except ValueError as error:
        raise UsageError(f"{given[:40]!r} is no number of a trial.", "Follow the links of the page.") from error


@cache
def _versions() -> dict[str, str]:
    """What tells one release's files from another's in the browser's cache."""
    contents = {name: render.asset(name).encode() for name in ASSETS} | {"plotly.js": render.plotly()}
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in contents.items()}


def guarded(store: Store, writable: Callable[[], Store], reviewer: str, host: str, port: int) -> Guard:
    """The site of a store behind its guard.

    Args:
        store: open for reading.
        writable: opens the store for writing.
        reviewer: whose name a review carries unless the form says another.
        host: the address that the server listens on.
        port: its port.
    """
    site = Site(store, writable, reviewer, lambda: guard.csrf)
    guard = Guard(site.app(), host, port)
    return guard


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    headers = {"Cache-Control": "private, max-age=86400, immutable"} if "v" in request.query_params else {}
    if name == "plotly.js":
        return Response(render.plotly(), media_type="text/javascript", headers=headers)
    if name not in ASSETS:
        return PlainTextResponse("There is no such file.", 404)
    return Response(render.asset(name), media_type=ASSETS[name], headers=headers)
