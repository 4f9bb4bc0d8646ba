"""`swarm recipe`: a trial's configuration as a file to use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from swarm.orchestrator.options import StoreUrl

PANEL = "Use"


def command(
    trial: Annotated[int, typer.Argument(help="Number of the trial.", show_envvar=False)],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it.  [default: print it]")] = None,
    store: StoreUrl = None,
) -> None:
    """Write the configuration of a trial as JSON: methods, layers, learned factors, evidence.

    `swarm generate` and `swarm serve` use it, and so does any mlx-lm script:
    `generate(model, tokenizer, prompt, prompt_cache=swarm.load_recipe("best.json").apply(model))`.

    Example: `swarm recipe 12 > best.json`
    """
    from swarm.orchestrator.recipes import of_trial
    from swarm.orchestrator.views.source import open_store

    with open_store(store) as opened:
        record = opened.trials.get(trial)
        campaign = opened.campaigns.get(record.campaign_id)
    corpus = campaign.settings.get("corpus")
    recipe = of_trial(record, campaign.name, Path(corpus) if corpus else None)
    if out is None:
        sys.stdout.write(recipe.text())
    else:
        out.write_text(recipe.text(), encoding="utf-8")
