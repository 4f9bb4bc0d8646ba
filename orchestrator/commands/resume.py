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
    from swarm.memory.store import Store
    from swarm.orchestrator import launching, settings
    from swarm.orchestrator.console import say
    from swarm.orchestrator.ending import tell
    from swarm.orchestrator.stop import Stop

    url = settings.store_url(store)
    with Stop() as stop, Store.open(url) as opened:
        found = opened.campaigns.get(campaign)
        if found.state == "complete":
            say(f"Campaign {found.name} is complete: nothing is left to do.")
            return
        chosen = settings.restore(
            found.settings, url, workers=workers, ray_address=ray_address, trial_timeout=trial_timeout
        )
        launching.check(chosen)
        with launching.started(launching.make_pool(chosen, stop)) as pool:
            cast = launching.cast(chosen)
            launching.check_unchanged(found, cast)
            opened.campaigns.finish(found.id, "running")
            state = launching.drive(opened, found, chosen, cast, pool, stop)
        tell(opened, found, state)
    raise typer.Exit(stop.exit_code)
