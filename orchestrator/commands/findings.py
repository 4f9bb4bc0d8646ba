"""`swarm findings`: what the agents claim, with effects and evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, listing, number
from swarm.orchestrator.options import CampaignName, Json, StoreUrl

if TYPE_CHECKING:
    from swarm.memory.records import FindingRecord

PANEL = "Results"
STATUSES = ("hypothesis", "confirmed", "refuted")


def command(
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="Only those that hold these words.")] = None,
    status: Annotated[str | None, typer.Option(help=f"Only this status: {', '.join(STATUSES)}.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind, such as contrast or plateau.")] = None,
    campaign: CampaignName = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the findings: typed claims with effect sizes, intervals and evidence.

    Examples: `swarm findings --status confirmed`, `swarm findings --search "rotation gemma"`
    """
    from swarm.kernels.errors import UnknownNameError
    from swarm.orchestrator.reading import open_campaign

    if status is not None and status not in STATUSES:
        raise UnknownNameError("status", status, ", ".join(STATUSES))
    with open_campaign(store, campaign) as (opened, found):
        records = opened.findings.search(search, found.id) if search else opened.findings.list(found.id)
    chosen = [r for r in records if status in (None, r.finding.status) and kind in (None, r.finding.kind)]
    columns = [
        Column("id", "finding", justify="right"),
        Column("kind"),
        Column("status"),
        Column("statement"),
        Column("interval", "effect"),
        Column("evidence", "trials", _evidence),
    ]
    listing([row(record) for record in chosen], columns, as_json=json, empty="No findings.")


def row(record: FindingRecord) -> dict[str, Any]:
    """A finding as one row of a listing."""
    finding = record.finding
    return {"id": record.id, **finding.model_dump(mode="json"), "interval": interval(record)}


def interval(record: FindingRecord) -> str | None:
    """The effect with its interval, in a few words."""
    effect = record.finding.effect
    if effect is None:
        return None
    text = f"{number(effect.value, 3)} [{number(effect.low, 3)}, {number(effect.high, 3)}]"
    return f"{effect.name} {text}" + (f" {effect.unit}" if effect.unit and effect.unit != "ratio" else "")


def _evidence(ids: list[int]) -> str:
    shown = " ".join(map(str, ids[:4]))
    return shown + (f" +{len(ids) - 4}" if len(ids) > 4 else "")
