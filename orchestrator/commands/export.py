"""`swarm export`: the trials as a file for other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.console import say
from swarm.orchestrator.options import CampaignName, StoreUrl

PANEL = "Results"


def command(
    out: Annotated[
        str,
        typer.Argument(
            help="A file ending in .parquet, .csv, .json or .jsonl, or the URL of an Optuna storage.",
            show_envvar=False,
        ),
    ],
    campaign: CampaignName = None,
    store: StoreUrl = None,
) -> None:
    """Write the trials of a campaign to a file, or as studies into an Optuna storage.

    Examples: `swarm export trials.parquet`, `swarm export sqlite:///optuna.db`
    """
    from pathlib import Path

    from swarm.orchestrator.views.source import open_campaign

    with open_campaign(store, campaign) as source:
        if "://" in out:
            import warnings

            import optuna

            from swarm.memory import optuna_export

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            say("Studies made: " + ", ".join(optuna_export.export(source.store, out, source.campaign.id)))
            return
        from swarm.memory import export

        count = export.trials(source.store, Path(out), source.campaign.id)
    say(f"{count} trials of {source.campaign.name} are in {out}.")
