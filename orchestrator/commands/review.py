"""`swarm review`: people read what the agents wrote, and say what they think of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, emit_json, listing, say
from swarm.orchestrator.options import Json, StoreUrl
from swarm.orchestrator.printing import minute, reviewed, show_summary
from swarm.orchestrator.views.choices import REVIEW_STATES, check_choice
from swarm.orchestrator.views.summaries import ShownSummary, SummaryRow, shown_summary, summary_row

if TYPE_CHECKING:
    from swarm.memory.store import Store

PANEL = "Results"


def command(
    summary: Annotated[int | None, typer.Argument(help="Number of the summary.", show_envvar=False)] = None,
    accept: Annotated[bool, typer.Option("--accept", help="The summary is right.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="The summary is wrong.")] = False,
    note: Annotated[str, typer.Option(help="Why; the agents read it. Alone, it leaves the verdict as it is.")] = "",
    reviewer: Annotated[str | None, typer.Option(metavar="NAME", help="Who says so.  [default: your login]")] = None,
    state: Annotated[str | None, typer.Option(help=f"List only this state: {', '.join(REVIEW_STATES)}.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the summaries, show one with every number linked to its trials, or accept or reject it.

    Numbers are read from the store when they are shown. Reviewer, time and note are recorded; a later review
    overrides an earlier one, and both stay.

    Examples: `swarm review --state pending`, `swarm review 3`,
    `swarm review 3 --reject --note "trial 12 is an outlier"`
    """
    from swarm.kernels.errors import UsageError
    from swarm.orchestrator.views.source import open_store

    if accept and reject:
        raise UsageError("--accept and --reject contradict each other.", "Give one of them.")
    if (accept or reject or note) and summary is None:
        raise UsageError("there is no summary to review.", "Give its number: `swarm review` lists them.")
    check_choice("state", state, REVIEW_STATES)
    if summary is None:
        with open_store(store) as opened:
            _list(opened, state, json)
    elif accept or reject or note:
        _decide(
            summary, "accepted" if accept else "rejected" if reject else None, reviewer or _login(), note, store, json
        )
    else:
        with open_store(store) as opened:
            if json:
                emit_json(shown_summary(opened, summary))
            else:
                show_summary(opened, summary)


def _list(store: Store, state: Any, json: bool) -> None:
    names = {campaign.id: campaign.name for campaign in store.campaigns.list()}
    rows = [summary_row(record, names[record.campaign_id]) for record in store.summaries.list(state=state)]
    columns = [
        Column("id", "summary", right=True),
        Column("campaign"),
        Column("title"),
        Column("author"),
        Column("evidence", "trials", lambda ids: str(len(ids)), right=True),
        Column("created_at", "written", minute),
        Column("state"),
        Column("reviewer"),
        Column("reviewed_at", "reviewed", minute),
        Column("note"),
    ]
    listing(rows, columns, as_json=json, empty="No summaries.")


def _decide(summary: int, state: Any, reviewer: str, note: str, store: str | None, json: bool) -> None:
    from swarm.memory.store import Store
    from swarm.orchestrator.settings import store_url

    with Store.open(store_url(store)) as opened:
        state = state or opened.summaries.get(summary).summary.state
        record = opened.summaries.review(summary, state, reviewer, note)
        row = summary_row(record, opened.campaigns.get(record.campaign_id).name)
    if json:
        emit_json(row)
    else:
        say(f"Summary {record.id} is {state}{reviewed(row)}")


def _login() -> str:
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return f"user {os.getuid()}"


def output() -> object:
    """What `--json` prints: a list of summaries, one that was reviewed, or one that is shown."""
    return list[SummaryRow] | SummaryRow | ShownSummary
