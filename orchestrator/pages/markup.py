"""Markdown of agents to HTML that can do nothing: no HTML, links or images of its own.

References are taken out before the text is parsed and put back as links of ours behind it, so that what they stand
for is never read as markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from swarm.orchestrator.pages.blocks import Cell, Prose, Ref

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

    from swarm.agents.writing.references import Resolver

_OPEN, _CLOSE = "\ue000", "\ue001"
_PLACE = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
LOWEST_HEADING = 6


FACTS = {
    "trials": "overview",
    "findings": "findings",
    "predictions": "predictions",
    "control": "control",
    "credit": "control",
}
"""Where on a campaign's page the facts of a name are shown."""


def resolved(text: str, resolver: Resolver, campaign: int) -> Prose:
    """The text with each reference as a cell: a number linked to its trial or finding, or to where it is shown."""
    from swarm.agents.writing.references import PATTERN

    inserts: list[Cell] = []

    def take(match: re.Match[str]) -> str:
        inserts.append(_cell(match.group(0)[1:-1], resolver, campaign))
        return f"{_OPEN}{len(inserts) - 1}{_CLOSE}"

    bare = text.replace(_OPEN, "").replace(_CLOSE, "")
    return Prose(PATTERN.sub(take, bare), tuple(inserts))


def unresolved(text: str) -> Prose:
    """The text as it is written, for a campaign whose trials are too many to resolve it."""
    return Prose(text.replace(_OPEN, "").replace(_CLOSE, ""))


def _cell(reference: str, resolver: Resolver, campaign: int) -> Cell:
    from swarm.agents.writing.references import UnresolvedError

    try:
        shown = resolver.text(reference)
    except UnresolvedError as error:
        return f"[unresolved: {error.problem}]"
    kind, _, rest = reference.partition(":")
    identity, _, name = rest.partition(":")
    if kind == "trial" and name != "words":
        return Ref("trial", int(identity), shown, f"trial {identity}" + (f", {name}" if name else ""))
    if kind == "finding" and name not in ("statement", "says"):
        return Ref("finding", int(identity), shown, f"finding {identity}" + (f", {name}" if name else ""))
    if kind == "fact":
        place = FACTS.get(rest.partition(".")[0], "overview")
        return Ref("campaign", campaign, shown, f"{rest}, computed from all trials", place)
    return shown


def html(prose: Prose, cell: Callable[[Cell], Markup], top: int = 3) -> Markup:
    """Render a text; its headings start at level `top`."""
    tokens = _parser().parse(prose.text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + top - 1, LOWEST_HEADING)}"
    parsed = _parser().renderer.render(tokens, _parser().options, {})

    def put(match: re.Match[str]) -> str:
        index = int(match.group(1))
        return str(cell(prose.inserts[index])) if index < len(prose.inserts) else ""

    return Markup(_PLACE.sub(put, parsed))  # noqa: S704 - the parser escapes, and cells are escaped


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table")
    return parser.disable(["link", "image", "autolink", "html_inline", "html_block", "reference", "entity"])
