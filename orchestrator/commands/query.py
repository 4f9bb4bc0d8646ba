"""`swarm query`: questions in SQL, which can only read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, emit_json, listing, note, number, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.memory.query import Result

PANEL = "Results"


def command(
    sql: Annotated[str | None, typer.Argument(help="One SELECT.", show_envvar=False)] = None,
    views: Annotated[bool, typer.Option("--views", help="List the documented views with examples.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 1000,
    seconds: Annotated[float, typer.Option(help="At most so long.")] = 10.0,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the rows to a file that ends in .parquet, .csv, .jsonl or .json."),
    ] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Ask the store a question in SQL; nothing can be written.

    Examples: `swarm query --views`, `swarm query "SELECT * FROM trial_metrics" --out trials.parquet`,
    `swarm query "SELECT * FROM best_per_model WHERE limit_from <= 4.6 AND limit_below > 4.6"`
    """
    from swarm.kernels.errors import UsageError
    from swarm.memory import export
    from swarm.orchestrator.views.source import open_store

    if views:
        _views(json)
        return
    if sql is None:
        raise UsageError("there is no query.", "Give one SELECT, or --views for what can be asked.")
    with open_store(store) as opened:
        answer = opened.query(sql, limit=limit, seconds=seconds)
    if out is not None:
        say(f"{export.write(answer.columns, answer.rows, out)} rows are in {out}.")
    elif csv:
        _csv(answer)
    elif json:
        emit_json([export.finite(record) for record in answer.records()])
    else:
        columns = [Column(name, show=number, right=_are_numbers(answer, i)) for i, name in enumerate(answer.columns)]
        listing(answer.records(), columns, empty="No rows.")
    if answer.truncated:
        note(f"Only the first {limit} rows are shown; ask for more by --limit.")


class ViewRow(TypedDict):
    """A view that can be asked."""

    view: str
    summary: str
    example: str


def output() -> object:
    """What `--json` prints: rows with the columns of the query, or with `--views` the views."""
    return list[dict[str, Any]] | list[ViewRow]


def _views(json: bool) -> None:
    from swarm.memory.views import VIEWS

    rows: list[ViewRow] = [
        {"view": name, "summary": view.summary, "example": view.example} for name, view in VIEWS.items()
    ]
    listing(rows, [Column("view"), Column("summary", "answers"), Column("example")], as_json=json)


def _csv(answer: Result) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout)
    writer.writerow(answer.columns)
    writer.writerows(answer.rows)


def _are_numbers(answer: Result, column: int) -> bool:
    return all(isinstance(row[column], int | float | None) for row in answer.rows)
