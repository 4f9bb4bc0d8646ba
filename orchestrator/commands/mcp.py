"""`swarm mcp`: other agents take part, through the Model Context Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.options import CampaignName, StoreUrl

PANEL = "Use"


def command(
    name: Annotated[str, typer.Option(metavar="AGENT", help="Whom proposals and findings are signed by.")] = "guest",
    trials: Annotated[
        int | None,
        typer.Option(min=0, help="Trials of the campaign that it may use.  [default: a tenth of the budget]"),
    ] = None,
    http: Annotated[
        int | None, typer.Option("--http", metavar="PORT", min=1, max=65535, help="Serve HTTP on 127.0.0.1:PORT/mcp.")
    ] = None,
    campaign: CampaignName = None,
    store: StoreUrl = None,
) -> None:
    """Serve the shared memory to a coding agent: query, propose, predict, post findings. Speaks on standard input.

    The agent works under the rules of the campaign's own agents: queries only read, proposals are checked against the
    search space and count against its share of the trials, findings are computed again from the trials they name.
    Proposals reach a campaign that runs in another process, or wait for the next `swarm resume`.

    Examples: `swarm mcp --name my-agent`, `swarm mcp --store night.db --trials 20`, `swarm mcp --http 8765`
    """
    import re
    from importlib.metadata import version

    from swarm.kernels.errors import UsageError
    from swarm.orchestrator.console import note
    from swarm.orchestrator.mcp.reading import Library
    from swarm.orchestrator.mcp.server import build
    from swarm.orchestrator.mcp.writing import Contributor
    from swarm.orchestrator.settings import store_url
    from swarm.orchestrator.views.source import open_campaign

    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name):
        raise UsageError(f"{name!r} is no name to sign with.", "Use up to 40 letters, digits, '.', '_' and '-'.")
    url = store_url(store)
    with open_campaign(url, campaign) as source:
        note(f"Serving campaign {source.campaign.name} of {source.store.place} to {name}; Ctrl-C ends it.")
    server = build(Library(url, campaign), Contributor(url, campaign, name, trials), version("kv-swarm"))
    if http is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=http)
