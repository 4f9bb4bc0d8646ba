"""`swarm resume`: go on with a campaign that was stopped, to exactly its budget."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.options import RayAddress, StoreUrl, TrialTimeout, Workers

PANEL = "Campaigns"
PREFIX = "SWARM"


def command(
    campaign: Annotated[
        str | None, typer.Argument(help="Name or number of the campaign.  [default: the latest]", show_envvar=False)
    ] = None,
    store: StoreUrl = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    trial_timeout: TrialTimeout = None,
) -> None:
    """Go on with a campaign after Ctrl-C, a crash or a power cut; nothing is run twice.

    A second driver may join a running campaign in the same way.

    Examples: `swarm resume`, `swarm resume gemma --workers 4`
    """
    from swarm.experiments.environment import code_version
    from swarm.memory.store import Store
    from swarm.orchestrator import foreground, launching, settings
    from swarm.orchestrator.console import note, say

    url = settings.store_url(store)
    with Store.open(url) as opened:
        found = opened.campaigns.get(campaign)
    if found.state == "complete":
        say(f"Campaign {found.name} is complete: nothing is left to do.")
        return
    if found.settings.get("code_version") != code_version():
        note("The measuring code changed since this campaign began; each trial says which code measured it.")
    flags = {"workers": workers, "ray_address": ray_address, "trial_timeout": trial_timeout}
    with (
        foreground.StopSignals() as signals,
        launching.resume(url, found.name, signals.arm, foreground.prepare, **flags) as resumed,
    ):
        foreground.run(resumed, signals)
    raise typer.Exit(signals.exit_code)
