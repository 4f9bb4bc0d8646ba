"""`swarm backup`: a copy of the store while it is in use."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.console import say
from swarm.orchestrator.options import StoreUrl

PANEL = "Results"


def command(
    out: Annotated[str, typer.Argument(help="The new SQLite file.", show_envvar=False)], store: StoreUrl = None
) -> None:
    """Copy the store to a SQLite file, also while campaigns run on it.

    Example: `swarm backup before-upgrade.db`
    """
    from swarm.orchestrator.views.source import open_store

    with open_store(store) as opened:
        say(f"The store is copied to {opened.backup(out)}.")
