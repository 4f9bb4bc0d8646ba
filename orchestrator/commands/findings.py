"""`swarm findings`: what the agents claim, with effects and evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, emit_json, listing, number, say
from swarm.orchestrator.options import CampaignName, Json, StoreUrl

if TYPE_CHECKING:
    from swarm.memory.records import Effect, FindingRecord

PANEL = "Results"
STATUSES = ("hypothesis", "confirmed", "refuted")


def command(
    search: Annotated[str | None, typer.Option(metavar="WORDS", help="Only those that hold these words.")] = None,
    status: Annotated[str | None, typer.Option(help=f"Only this status: {', '.join(STATUSES)}.")] = None,
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
    those that changed are listed. The store stays as it is.

    Examples: `swarm findings --status confirmed`, `swarm findings --search "rotation gemma"`, `swarm findings --check`
    """
    from swarm.agents.analysis.ranking import ranked
    from swarm.kernels.errors import UnknownNameError
    from swarm.orchestrator.reading import open_campaign

    if status is not None and status not in STATUSES:
        raise UnknownNameError("status", status, ", ".join(STATUSES))
    if check:
        raise typer.Exit(_check(campaign, store, json))
    with open_campaign(store, campaign) as (opened, found):
        records = opened.findings.search(search, found.id) if search else ranked(opened.findings.list(found.id))
    wanted = {"status": status, "kind": kind, "author": author}
    chosen = [r for r in records if all(value in (None, getattr(r.finding, name)) for name, value in wanted.items())]
    columns = [
        Column("id", "finding", justify="right"),
        Column("kind"),
        Column("status"),
        Column("statement"),
        Column("interval", "effect"),
        Column("evidence", "trials", _evidence),
    ]
    listing([row(record) for record in chosen], columns, as_json=json, empty="No findings.")


def _check(campaign: str | None, store: str | None, json: bool) -> int:
    from swarm.orchestrator.reading import changes, open_campaign

    with open_campaign(store, campaign) as (opened, found):
        total = len(opened.findings.list(found.id))
        changed = changes(opened, found)
    fell = sum(change.fell for change in changed)
    rows: list[ChangedRow] = [
        {
            "id": change.record.id,
            "stored": change.record.finding.status,
            "now": "gone" if change.now is None else change.now.status,
            "effect_stored": interval(change.record.finding.effect),
            "effect_now": interval(change.effect),
            "fell": change.fell,
            "statement": change.record.finding.statement,
        }
        for change in changed
    ]
    if json:
        emit_json({"findings": total, "changed": rows, "fell": fell})
        return int(fell > 0)
    if rows:
        columns = [Column("id", "finding", justify="right"), Column("stored"), Column("now"), Column("statement")]
        columns += [Column("effect_stored", "effect stored"), Column("effect_now", "effect now")]
        listing(rows, columns, as_json=False)
    say(f"{total} findings judged again from the measurements: {total - len(rows)} stand as stored, {fell} fell.")
    return int(fell > 0)


class ChangedRow(TypedDict):
    """A finding that the measurements do not carry any more as it is stored."""

    id: int
    stored: str
    now: str
    effect_stored: str | None
    effect_now: str | None
    fell: bool
    statement: str


class Checked(TypedDict):
    """All findings judged again."""

    findings: int
    changed: list[ChangedRow]
    fell: int


def output() -> object:
    """What `--json` prints: the findings, or with `--check` those that changed."""
    from swarm.memory.records import Finding

    class FindingRow(Finding):
        id: int
        interval: str | None

    return list[FindingRow] | Checked


def row(record: FindingRecord) -> dict[str, Any]:
    """A finding as one row of a listing."""
    finding = record.finding
    return {"id": record.id, **finding.model_dump(mode="json"), "interval": interval(finding.effect)}


def interval(effect: Effect | None) -> str | None:
    """An effect with its interval, in a few words."""
    if effect is None:
        return None
    text = f"{number(effect.value, 3)} [{number(effect.low, 3)}, {number(effect.high, 3)}]"
    return f"{effect.name} {text}" + (f" {effect.unit}" if effect.unit and effect.unit != "ratio" else "")


def _evidence(ids: list[int]) -> str:
    shown = " ".join(map(str, ids[:4]))
    return shown + (f" +{len(ids) - 4}" if len(ids) > 4 else "")
