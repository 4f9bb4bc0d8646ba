"""Cells of tables and facts as HTML. Escapes everything; knows where links lead only through `Links`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from functools import singledispatchmethod

from markupsafe import Markup, escape

from swarm.orchestrator.console import number
from swarm.orchestrator.pages.blocks import Bar, Cell, Code, Interval, Ref, Refs, Tag


class Links(ABC):
    """Where links lead: to places in one file, or to pages of a server."""

    @abstractmethod
    def url(self, ref: Ref) -> str:
        """The address of something; empty when it has none."""


class Cells:
    """Renders cells with links of one kind."""

    def __init__(self, links: Links) -> None:
        self.links = links

    @singledispatchmethod
    def html(self, value: Cell) -> Markup:
        """A cell as HTML."""
        return escape(value)

    @html.register
    def _none(self, value: None) -> Markup:  # noqa: ARG002
        return Markup('<span class="faint">–</span>')

    @html.register
    def _float(self, value: float) -> Markup:
        return escape(number(value, 3))

    @html.register
    def _int(self, value: int) -> Markup:
        return escape(f"{value:,}" if abs(value) >= 10_000 else str(value))

    @html.register
    def _ref(self, value: Ref) -> Markup:
        text = value.text or f"{value.kind} {value.id}"
        url = self.links.url(value)
        if not url:
            return escape(text)
        if value.title:
            return Markup('<a href="{}" title="{}">{}</a>').format(url, value.title, text)
        return Markup('<a href="{}">{}</a>').format(url, text)

    @html.register
    def _refs(self, value: Refs) -> Markup:
        shown = [self._ref(ref) for ref in value.refs[: value.most]]
        more = len(value.refs) - len(shown)
        return Markup(" ").join([*shown, *([Markup('<span class="faint">+{}</span>').format(more)] if more else [])])

    @html.register
    def _tag(self, value: Tag) -> Markup:
        return Markup('<span class="tag {}">{}</span>').format(value.tone, value.text)

    @html.register
    def _code(self, value: Code) -> Markup:
        if value.block:
            return Markup('<pre tabindex="0"><code>{}</code></pre>').format(value.text)
        return Markup("<code>{}</code>").format(value.text)

    @html.register
    def _interval(self, value: Interval) -> Markup:
        unit = f" {value.unit}" if value.unit and value.unit != "ratio" else ""
        ends = f"[{number(value.low, 3)}, {number(value.high, 3)}]"
        return Markup('{} <span class="faint nowrap">{}{}</span>').format(number(value.value, 3), ends, unit)

    @html.register
    def _bar(self, value: Bar) -> Markup:
        text = f"{value.value:g} of {value.whole:g}"
        return Markup('<span class="nowrap"><progress value="{}" max="{}">{}</progress> {}</span>').format(
            value.value, value.whole, text, text
        )


def moment(value: datetime | None) -> str | None:
    """A moment for people, in UTC as the store keeps it."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else None
