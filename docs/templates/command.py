"""Template of a command, `swarm <name>`: how many trials each method took part in."""

from __future__ import annotations

from swarm.orchestrator.options import Json, StoreUrl

PANEL = "Results"


def command(store: StoreUrl = None, json: Json = False) -> None:
    """Count the trials of each method.

    Example: `swarm count`
    """
    from swarm.orchestrator.console import Column, listing
    from swarm.orchestrator.views.source import open_store

    with open_store(store) as opened:
        answer = opened.query("SELECT key_method AS method, count(*) AS trials FROM trials GROUP BY 1 ORDER BY 2 DESC")
    listing(answer.records(), [Column("method"), Column("trials")], as_json=json, empty="No trials.")


def output() -> object:
    """What `--json` prints."""
    return list[dict[str, str | int]]
