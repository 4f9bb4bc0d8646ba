"""`swarm review`: people read what the agents wrote, and say what they think of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, emit_json, listing, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.memory.records import SummaryRecord
    from swarm.memory.store import Store
    from swarm.orchestrator.linking import Link

PANEL = "Results"
MOST_SHOWN = 16
"""Trials of a finding that are listed."""
STATES = ("pending", "accepted", "rejected")


def command(
    summary: Annotated[int | None, typer.Argument(help="Number of the summary.", show_envvar=False)] = None,
    accept: Annotated[bool, typer.Option("--accept", help="The summary is right.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="The summary is wrong.")] = False,
    note: Annotated[str, typer.Option(help="Why; the agents read it. Alone, it leaves the verdict as it is.")] = "",
    reviewer: Annotated[str | None, typer.Option(metavar="NAME", help="Who says so.  [default: your login]")] = None,
    state: Annotated[str | None, typer.Option(help=f"List only this state: {', '.join(STATES)}.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the summaries, show one with every number linked to its trials, or accept or reject it.

    Numbers are read from the store when they are shown. Reviewer, time and note are recorded; a later review
    overrides an earlier one, and both stay.

    Examples: `swarm review --state pending`, `swarm review 3`,
    `swarm review 3 --reject --note "trial 12 is an outlier"`
    """
    from swarm.kernels.errors import UnknownNameError, UsageError

    if accept and reject:
        raise UsageError("--accept and --reject contradict each other.", "Give one of them.")
    if (accept or reject or note) and summary is None:
        raise UsageError("there is no summary to review.", "Give its number: `swarm review` lists them.")
    if state is not None and state not in STATES:
        raise UnknownNameError("state", state, ", ".join(STATES))
    if summary is None:
        _list(state, store, json)
    elif accept or reject or note:
        _decide(
            summary, "accepted" if accept else "rejected" if reject else None, reviewer or _login(), note, store, json
        )
    else:
        from swarm.orchestrator.reading import open_store

        with open_store(store) as opened:
            show(opened, summary, json)


def _list(state: Any, store: str | None, json: bool) -> None:
    from swarm.orchestrator.reading import open_store

    with open_store(store) as opened:
        names = {campaign.id: campaign.name for campaign in opened.campaigns.list()}
        rows = [row(record, names[record.campaign_id]) for record in opened.summaries.list(state=state)]
    columns = [
        Column("id", "summary", justify="right"),
        Column("campaign"),
        Column("title"),
        Column("author"),
        Column("evidence", "trials", lambda ids: str(len(ids)), "right"),
        Column("created_at", "written", _moment),
        Column("state"),
        Column("reviewer"),
        Column("reviewed_at", "reviewed", _moment),
        Column("note"),
    ]
    listing(rows, columns, as_json=json, empty="No summaries.")


def show(store: Store, summary: int, json: bool) -> None:
    """Print a summary with its numbers filled in from the store, each with the trials that it comes from."""
    from swarm.orchestrator.ending import show_markdown
    from swarm.orchestrator.linking import linked, links
    from swarm.orchestrator.reading import resolver

    record = store.summaries.get(summary)
    campaign = store.campaigns.get(record.campaign_id)
    numbers = resolver(store, campaign)
    text = linked(record.summary.text, numbers)
    found = links(record.summary.text, numbers)
    if json:
        emit_json({**row(record, campaign.name), "text": text, "references": [asdict(link) for link in found]})
        return
    show_markdown(text)
    _evidence(found)
    say(f"\nSummary {record.id} by {record.summary.author}: {record.summary.state}{_by(record)}")
    if record.summary.state == "pending":
        say(f"Decide: `swarm review {record.id} --accept` or `swarm review {record.id} --reject --note WHY`.")


def _evidence(found: Sequence[Link]) -> None:
    """The trials behind each finding; a number of a trial names its trial in the text."""
    rows = [
        {"finding": link.shown.removeprefix("finding "), "trials": link.trials}
        for link in found
        if link.trials and link.reference.startswith("finding:") and link.reference.count(":") == 1
    ]
    if rows:
        say("\nEvidence; `swarm show finding ID` and `swarm show trial ID` tell all about one.")
        listing(rows, [Column("finding", justify="right"), Column("trials", show=_ids)], as_json=False)


def _ids(trials: Sequence[int]) -> str:
    more = f" and {len(trials) - MOST_SHOWN} more" if len(trials) > MOST_SHOWN else ""
    return " ".join(map(str, trials[:MOST_SHOWN])) + more


def _decide(summary: int, state: Any, reviewer: str, note: str, store: str | None, json: bool) -> None:
    from swarm.memory.store import Store
    from swarm.orchestrator.settings import store_url

    with Store.open(store_url(store)) as opened:
        state = state or opened.summaries.get(summary).summary.state
        record = opened.summaries.review(summary, state, reviewer, note)
        name = opened.campaigns.get(record.campaign_id).name
    if json:
        emit_json(row(record, name))
    else:
        say(f"Summary {record.id} is {state}{_by(record)}")


def _login() -> str:
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return f"user {os.getuid()}"


class SummaryRow(TypedDict):
    """A summary with its latest review."""

    id: int
    campaign_id: int
    campaign: str
    title: str
    text: str
    evidence: list[int]
    author: str
    state: str
    created_at: str | None
    reviewer: str | None
    note: str | None
    reviewed_at: str | None


class LinkRow(TypedDict):
    """A reference of a text: as it is shown, and the trials behind it."""

    reference: str
    shown: str
    trials: list[int]


class ShownSummary(SummaryRow):
    """A summary with its references resolved."""

    references: list[LinkRow]


def output() -> object:
    """What `--json` prints: a list of summaries, one that was reviewed, or one that is shown."""
    return list[SummaryRow] | SummaryRow | ShownSummary


def row(record: SummaryRecord, campaign: str) -> SummaryRow:
    """A summary as one row of a listing."""
    return {
        "id": record.id,
        "campaign_id": record.campaign_id,
        "campaign": campaign,
        "title": record.summary.title,
        "text": record.summary.text,
        "evidence": list(record.summary.evidence),
        "author": record.summary.author,
        "state": record.summary.state,
        "created_at": record.created_at.isoformat() if record.created_at else None,
        "reviewer": record.reviewer or None,
        "note": record.note or None,
        "reviewed_at": record.reviewed_at.isoformat() if record.reviewed_at else None,
    }


def _moment(text: str) -> str:
    """A moment to the minute."""
    return text[:16].replace("T", " ")


def _by(record: SummaryRecord) -> str:
    when = f" at {_moment(record.reviewed_at.isoformat())} UTC" if record.reviewed_at else ""
    return (f" by {record.reviewer}{when}" if record.reviewer else "") + (f": {record.note}" if record.note else ".")
