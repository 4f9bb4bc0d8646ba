"""`swarm bench`: the benchmarks of a source checkout, each in a process of its own."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from swarm.orchestrator.options import Json

PANEL = "Methods and models"


def command(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; without it, all are listed.")] = None,
    short: Annotated[bool, typer.Option("--short", help="The smallest sizes: whether it runs, not how fast.")] = False,
    json: Json = False,
) -> None:
    """Run a benchmark against its peers, from a checkout of the repository.

    Example: `swarm bench overhead --short`
    """
    from swarm.orchestrator import benches
    from swarm.orchestrator.console import Column, listing

    if name is None:
        rows = [{"name": found, "summary": benches.summary(found)} for found in benches.names()]
        listing(rows, [Column("name", "benchmark"), Column("summary", "what it compares")], as_json=json)
        return
    code = benches.run(name, short=short, as_json=json)
    if code:
        raise typer.Exit(code)


def output() -> object:
    """What `--json` prints: the benchmarks by name, or the record of one, each with its own keys."""
    return list[dict[str, str]] | dict[str, Any]
