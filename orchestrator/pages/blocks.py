"""What a page is made of, as values: parts that hold blocks, tables that hold cells. `render` makes HTML of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Tone = Literal["plain", "good", "bad", "warn"]
RefKind = Literal["campaign", "trial", "finding", "summary"]


@dataclass(frozen=True)
class Ref:
    """A link to something in the store; shown as `text`, or as its kind and number. `place` is a section of it."""

    kind: RefKind
    id: int
    text: str = ""
    title: str = ""
    place: str = ""


@dataclass(frozen=True)
class Refs:
    """Several links; only the first ones are shown, and how many more there are."""

    refs: tuple[Ref, ...]
    most: int = 6


@dataclass(frozen=True)
class Tag:
    """A state in a word."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Code:
    """Something to be typed or compared letter by letter; `block` keeps its lines."""

    text: str
    block: bool = False


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class Bar:
    """A share of something."""

    value: float
    whole: float


Cell = str | int | float | Ref | Refs | Tag | Code | Interval | Bar | None
Columns = Mapping[str, str | Callable[[Any], Cell]]
"""Heading to what stands under it: a function of each thing, or a key of each row."""


class Num(str):
    """A heading over numbers, which are aligned at their right end; any other heading is a plain text."""

    __slots__ = ()


@dataclass(frozen=True)
class Paragraph:
    """Plain text of our own making or from the store; `tone` makes it a notice."""

    template: ClassVar[str] = "paragraph"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Facts:
    """Names with values; those without a value are left out."""

    template: ClassVar[str] = "facts"
    facts: Mapping[str, Cell]

    @property
    def shown(self) -> dict[str, Cell]:
        """The facts that have a value."""
        return {name: value for name, value in self.facts.items() if value not in (None, "")}


@dataclass(frozen=True)
class Tiles:
    """A few numbers to see at once: each a heading, a value and a remark."""

    template: ClassVar[str] = "tiles"
    tiles: Sequence[tuple[str, Cell, Cell]]


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    `folded` tables open on request, `stacked` ones become a list on a narrow screen; `anchors` names each row as what
    it is about.
    """

    template: ClassVar[str] = "table"
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    anchors: Sequence[Ref] = ()
    stacked: bool = False

    @classmethod
    def of(cls, caption: str, things: Iterable[Any], columns: Columns, **fields: Any) -> Table:
        """A table with one row per thing.

        Args:
            caption: what the table shows.
            things: records, or rows of a query.
            columns: what stands under each heading.
            fields: further fields of the table.
        """
        rows = [[get(thing) if callable(get) else thing[get] for get in columns.values()] for thing in things]
        return cls(caption, list(columns), rows, **fields)


@dataclass(frozen=True)
class Chart:
    """A Plotly figure with what it shows in words, and its numbers as a table for those who cannot see it."""

    template: ClassVar[str] = "chart"
    title: str
    alt: str
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    table: Table | None = None


@dataclass(frozen=True)
class Charts:
    """Charts side by side where there is room."""

    template: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Prose:
    """Markdown from the store with references such as `{trial:12:kld}` already resolved to cells.

    `text` holds a placeholder for each of `inserts`; see `markup`.
    """

    template: ClassVar[str] = "prose"
    text: str
    inserts: Sequence[Cell] = ()


@dataclass(frozen=True)
class Heading:
    """A heading inside a section, which links can lead to."""

    template: ClassVar[str] = "heading"
    text: str
    anchor: Ref | None = None
    tag: Tag | None = None


Block = Paragraph | Facts | Tiles | Table | Chart | Charts | Prose | Heading


@dataclass(frozen=True)
class PagePart:
    """A section of a page, as it is shown."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page: its parts under a title."""

    title: str
    parts: Sequence[PagePart]
    subtitle: str = ""
    crumbs: Sequence[Ref] = field(default=())
