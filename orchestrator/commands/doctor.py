"""`swarm doctor`: whether this machine has what a campaign needs."""

from __future__ import annotations

from dataclasses import asdict

import typer

from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import Json, StoreUrl

PANEL = "Methods and models"


def command(store: StoreUrl = None, json: Json = False) -> None:
    """Check device, BLAS, Ray, store, LLM endpoint and models; say what to do where something is missing.

    Exits with 1 when something needs attention. Example: `swarm doctor`
    """
    from swarm.orchestrator import checks
    from swarm.orchestrator.settings import load

    found = list(checks.run(load(store=store)))
    columns = [Column("name", "check"), Column("status"), Column("detail", "found"), Column("remedy", "what to do")]
    listing([asdict(check) for check in found], columns, as_json=json)
    if any(check.status in ("missing", "failed") for check in found):
        raise typer.Exit(1)


def output() -> object:
    """What `--json` prints."""
    from swarm.orchestrator.checks import Check

    return list[Check]
