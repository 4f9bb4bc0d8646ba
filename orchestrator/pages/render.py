"""Makes HTML of pages by templates: everything is escaped, and `Links` says where links lead."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from swarm.orchestrator.console import number
from swarm.orchestrator.pages import markup
from swarm.orchestrator.pages.blocks import Bar, Cell, Chart, Charts, Code, Interval, Num, Page, Ref, Refs, Tag

if TYPE_CHECKING:
    import jinja2

PACKAGE = "swarm.orchestrator.pages"
MAX_UNBROKEN_CHARS = 24
"""A cell with a text up to this length stays on one line."""
EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
"""The hash of an empty style sheet: Plotly makes one and fills it through the object model."""


class Links(ABC):
    """Where links lead: to places in one file, or to pages of a server."""

    @abstractmethod
    def url(self, ref: Ref) -> str:
        """The address of something; empty when it has none."""


def cells(links: Links) -> Callable[[Cell], Markup]:
    """What makes HTML of a cell, with links of one kind."""
    macros: Any = _environment().get_template("cell.html").make_module({"url": links.url})
    return macros.cell  # type: ignore[no-any-return]


@cache
def asset(name: str) -> str:
    """One of our own files: `app.css`, `app.js`, `theme.js`, `icon.svg`."""
    return files(PACKAGE).joinpath("static", name).read_text(encoding="utf-8")


@cache
def plotly() -> bytes:
    """Plotly's script, as its Python package bundles it."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()


def digest(content: bytes | str) -> str:
    """A source of a content security policy that allows exactly this script or style."""
    raw = content.encode() if isinstance(content, str) else content
    return f"'sha256-{base64.b64encode(hashlib.sha256(raw).digest()).decode()}'"


def document(value: object) -> Markup:
    """A value as JSON that may stand inside a script element: no `<`, whatever the text says."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def render(template: str, links: Links, page: Page, **context: Any) -> str:
    """A page by one of our templates.

    Args:
        template: its name, such as `report.html`.
        links: where links of the page lead.
        page: what it shows.
        context: what else the template asks for.
    """
    cell = cells(links)
    shown: Mapping[str, Any] = {
        "page": page,
        "cell": cell,
        "url": links.url,
        "prose": lambda block: markup.html(block, cell),
        "version": version("kv-swarm"),
        **context,
    }
    return _environment().get_template(template).render(shown)


def has_charts(page: Page) -> bool:
    """Whether a page needs Plotly at all."""
    return any(isinstance(block, Chart | Charts) for part in page.parts for block in part.blocks)


def finite(value: Any) -> Any:
    """A document with null in place of numbers that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE, "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"document": document, "number": partial(number, digits=3)}
    for kind in (Ref, Refs, Tag, Code, Interval, Bar, Num):
        made.tests[kind.__name__.lower()] = _is(kind)
    made.tests["short"] = _short
    return made


def _is(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)


def _short(value: object) -> bool:
    """Whether a cell stays on one line."""
    return isinstance(value, Ref) or (isinstance(value, str) and len(value) <= MAX_UNBROKEN_CHARS)
