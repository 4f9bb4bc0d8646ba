"""`swarm report`: a campaign as one file to read, send and print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from swarm.orchestrator.options import CampaignName, StoreUrl

PANEL = "Results"


def command(
    out: Annotated[Path, typer.Argument(help="HTML file to write; an existing one is replaced.", show_envvar=False)],
    campaign: CampaignName = None,
    store: StoreUrl = None,
) -> None:
    """Write a campaign as one HTML file: fronts, curves, findings, summaries, spend, environment.

    The file is complete in itself: it opens without a network, on a phone as well, light or dark, and prints.

    Example: `swarm report night.html --campaign campaign-3`
    """
    from swarm.kernels.errors import UsageError
    from swarm.orchestrator.console import note
    from swarm.orchestrator.pages import report
    from swarm.orchestrator.views.source import open_campaign

    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out} is no name of an HTML file.", f"Write to {out.with_suffix('.html')}.")
    with open_campaign(store, campaign) as source:
        text = report.build(source.store, source.campaign)
    kept = out.with_name(f".{out.name}.tmp")
    try:
        kept.write_text(text, encoding="utf-8")
        kept.replace(out)
    finally:
        kept.unlink(missing_ok=True)
    note(f"Wrote {out}, {out.stat().st_size / 2**20:.1f} MiB, campaign {source.campaign.name}.")
