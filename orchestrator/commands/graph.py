"""`swarm graph`: what came from what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import CampaignName, Json, StoreUrl
from swarm.orchestrator.views.choices import check_choice

PANEL = "Results"
FORMATS = ("dot", "graphml")


def command(
    form: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}.")] = "dot",
    ancestors: Annotated[
        str | None, typer.Option(metavar="NODE", help="List what a node such as trial:12 came from.")
    ] = None,
    descendants: Annotated[str | None, typer.Option(metavar="NODE", help="List what came of a node.")] = None,
    influential: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="List the N findings that most trials descend from.")
    ] = None,
    campaign: CampaignName = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Print the lineage graph of proposals, trials, findings, summaries and reviews, or ask it a question.

    Examples: `swarm graph --format graphml > lineage.graphml`, `swarm graph --ancestors finding:3`
    """
    import sys

    from swarm.kernels.errors import UsageError
    from swarm.memory import lineage
    from swarm.orchestrator.views.source import open_campaign

    check_choice("format", form, FORMATS)
    if sum(question is not None for question in (ancestors, descendants, influential)) > 1:
        raise UsageError(
            "more than one question to the graph.", "Give one of --ancestors, --descendants, --influential."
        )
    with open_campaign(store, campaign) as source:
        made = lineage.graph(source.store, source.campaign.id)
    if influential is not None:
        rows = [asdict(each) for each in lineage.influential(made, influential)]
        columns = [Column("finding_id", "finding"), Column("trials"), Column("proposals"), Column("findings")]
        listing(rows, [*columns, Column("statement")], as_json=json, empty="No findings.")
    elif ancestors is not None or descendants is not None:
        walk = lineage.ancestors if ancestors is not None else lineage.descendants
        nodes = [{"node": node, **made.nodes[node]} for node in walk(made, ancestors or descendants or "")]
        listing(nodes, [Column("node"), Column("label")], as_json=json, empty="None.")
    else:
        sys.stdout.write(lineage.to_dot(made) if form == "dot" else lineage.to_graphml(made))


def output() -> object:
    """What `--json` prints: the nodes of a walk with their attributes, or the most influential findings."""
    from swarm.memory.lineage import Influence

    return list[dict[str, str | int | float | bool | None]] | list[Influence]
