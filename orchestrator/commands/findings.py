"""`swarm findings`: what the agents claim, with effects and evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.orchestrator.console import Column, emit_json, listing, say
from swarm.orchestrator.options import CampaignName, Json, StoreUrl
from swarm.orchestrator.views.choices import FINDING_STATUSES, check_choice

if TYPE_CHECKING:
    from swarm.orchestrator.views.source import Source

PANEL = "Results"


def command(
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="Only those that hold these words.")] = None,
    status: Annotated[str | None, typer.Option(help=f"Only this status: {', '.join(FINDING_STATUSES)}.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as contrast or plateau.")] = None,
    author: Annotated[
        str | None, typer.Option(help="Only of this author, such as agenda for published claims.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Judge them again from the stored measurements; exit 1 if one fell.")
    ] = False,
    campaign: CampaignName = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the findings, the surest and largest first: typed claims with effect sizes, intervals and evidence.

    With `--check` nothing is believed: every finding is judged again from the measurements as they are stored now, and
    those that changed are listed. What rests on results of an older version of a protocol or a method is counted, not
    judged. The store stays as it is.

    Where the store has a campaign on another device with the same models, text and context, a column says what its
    trials say of each finding.

    Examples: `swarm findings --status confirmed`, `swarm findings --search "rotation gemma"`, `swarm findings --check`
    """
    from swarm.agents.analysis.judge import ranked
    from swarm.orchestrator.views.findings import by_device, finding_row
    from swarm.orchestrator.views.source import open_campaign

    check_choice("status", status, FINDING_STATUSES)
    with open_campaign(store, campaign) as source:
        if check:
            raise typer.Exit(_check(source, json))
        records = source.store.findings.search(search, source.campaign.id) if search else ranked(source.findings)
        devices = by_device(source)
    wanted = {"status": status, "kind": kind, "author": author}
    chosen = [r for r in records if all(value in (None, getattr(r.finding, name)) for name, value in wanted.items())]
    columns = [
        Column("id", "finding", right=True),
        Column("kind"),
        Column("status"),
        Column("statement"),
        Column("interval", "effect"),
        Column("evidence", "trials", _evidence),
        *([Column("devices", "devices", _devices)] if devices else []),
    ]
    rows = [{**finding_row(record), "devices": devices.get(record.finding.key, {})} for record in chosen]
    listing(rows, columns, as_json=json, empty="No findings.")


def _check(source: Source, json: bool) -> int:
    from swarm.orchestrator.views.findings import checked

    found = checked(source)
    rows, fell, outdated = found["changed"], found["fell"], found["outdated"]
    judged = found["findings"] - outdated
    if json:
        emit_json(found)
        return int(fell > 0)
    if rows:
        columns = [Column("id", "finding", right=True), Column("stored"), Column("now"), Column("statement")]
        columns += [Column("effect_stored", "effect stored"), Column("effect_now", "effect now")]
        listing(rows, columns)
    say(f"{judged} findings judged again from the measurements: {judged - len(rows)} stand as stored, {fell} fell.")
    if outdated:
        say(f"{outdated} more rest on results of an older version and were not judged.")
    return int(fell > 0)


def _evidence(ids: list[int]) -> str:
    shown = " ".join(map(str, ids[:4]))
    return shown + (f" +{len(ids) - 4}" if len(ids) > 4 else "")


def _devices(found: dict[str, str]) -> str:
    return ", ".join(f"{device} {status}" for device, status in found.items())


def output() -> object:
    """What `--json` prints: the findings, or with `--check` those that changed."""
    from swarm.orchestrator.views.findings import Checked, finding_rows

    return finding_rows() | Checked
