"""The results of a store as rows, for Python and for notebooks."""

from __future__ import annotations

import importlib
import os
from html import escape
from typing import TYPE_CHECKING, Any, Self

from swarm.kernels.errors import UsageError
from swarm.memory.store import Store
from swarm.orchestrator.console import number
from swarm.orchestrator.views.findings import finding_row
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    import pandas
    import polars

MAX_ROWS = 1_000_000
"""Rows that a question is answered with at most."""
MAX_HTML_ROWS = 100


class MissingPackageError(UsageError):
    """A package that is not installed is needed for what was asked."""


class Rows(list[dict[str, Any]]):
    """Rows of a table: dictionaries with the same keys. A notebook shows them as a table."""

    def to_polars(self) -> polars.DataFrame:
        """The rows as a polars data frame.

        Raises:
            MissingPackageError: polars is not installed.
        """
        frame: polars.DataFrame = _package("polars").DataFrame(list(self), infer_schema_length=None)
        return frame

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas data frame.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return _package("pandas").DataFrame(list(self))

    def _repr_html_(self) -> str:
        if not self:
            return "<p>Nothing yet.</p>"
        head = "".join(f"<th>{escape(str(key))}</th>" for key in self[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(number(value))}</td>" for value in row.values()) + "</tr>"
            for row in self[:MAX_HTML_ROWS]
        )
        more = f"<p>and {len(self) - MAX_HTML_ROWS} more rows</p>" if len(self) > MAX_HTML_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class StoreReader:
    """What a store holds, as rows; opened by `swarm.open_store`. Use it as a context manager, or close it.

    `campaign` is a name everywhere; where it is left out, all campaigns are meant.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def trials(self, model: str | None = None, campaign: str | None = None) -> Rows:
        """One row per trial with the common metrics side by side: the view `trial_metrics`."""
        return self._select("trial_metrics", model=model, campaign=campaign, order="campaign_id, number")

    def findings(self, campaign: str | None = None) -> Rows:
        """One row per finding: a typed claim with its effect, confidence interval, evidence and status."""
        found = self._store.findings.list(None if campaign is None else self._store.campaigns.get(campaign).id)
        return Rows(finding_row(record) for record in found)

    def best(self, bits: float = 4.5, rung: int = 0, campaign: str | None = None) -> Rows:
        """Per model, the measured configuration with the smallest KLD at no more than so many bits per value.

        Args:
            bits: the limit, metadata included.
            rung: of the quality protocol; KLD compares within a rung only.
            campaign: of one campaign.
        """
        within = f"rung = {int(rung)} AND limit_from <= {float(bits)} AND limit_below > {float(bits)}"
        return self._select("best_per_model", within, campaign=campaign, order="campaign_id, model")

    def front(self, model: str | None = None, campaign: str | None = None) -> Rows:
        """The Pareto front of KLD and bits per value among comparable trials: the view `pareto`."""
        order = "campaign_id, model, protocol, rung, bits_per_value"
        return self._select("pareto", model=model, campaign=campaign, order=order)

    def summary(self, campaign: str | None = None) -> str:
        """The newest summary of a campaign, by default the latest one, as markdown; empty before there is one."""
        source = Source(self._store, self._store.campaigns.get(campaign))
        return source.resolver.render(source.summaries[-1].summary.text) if source.summaries else ""

    def query(self, sql: str) -> Rows:
        """The answer to one SELECT over the tables and views that docs/store.md describes.

        Raises:
            UsageError: the statement is wrong, writes, is more than one, or takes too long.
        """
        return Rows(self._store.query(sql, limit=MAX_ROWS, seconds=60.0).records())

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _select(self, view: str, *conditions: str, order: str, **equal: str | None) -> Rows:
        wanted = [*conditions, *(f"{name} = {_quoted(value)}" for name, value in equal.items() if value is not None)]
        where = f" WHERE {' AND '.join(wanted)}" if wanted else ""
        return self.query(f"SELECT * FROM {view}{where} ORDER BY {order}")  # noqa: S608 - quoted above


def open_store(url_or_path: str | os.PathLike[str]) -> StoreReader:
    """Open a store for reading: a path of a SQLite file, or a URL `postgresql+psycopg://...`.

    Raises:
        StoreError: it does not exist or cannot be read.
    """
    return StoreReader(Store.read(url_or_path))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"{name} is not installed.", f"Install it: `pip install {name}`.") from error
