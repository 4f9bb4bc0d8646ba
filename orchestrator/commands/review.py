"""`swarm review`: people read what the agents wrote, and say what they think of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, emit_json, listing, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.memory.records import SummaryRecord
    from swarm.memory.store import Store

PANEL = "Results"
STATES = ("pending", "accepted", "rejected")


def command(
    summary: Annotated[int | None, typer.Argument(help="Number of the summary.", show_envvar=False)] = None,
    accept: Annotated[bool, typer.Option("--accept", help="The summary is right.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="The summary is wrong.")] = False,
    note: Annotated[str, typer.Option(help="Why; the agents read it.")] = "",
    state: Annotated[str | None, typer.Option(help=f"List only this state: {', '.join(STATES)}.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the summaries, show one with its numbers filled in, or accept or reject it.

    Examples: `swarm review`, `swarm review 3`, `swarm review 3 --reject --note "trial 12 is an outlier"`
    """
    from swarm.kernels.errors import UnknownNameError, UsageError

    if accept and reject:
        raise UsageError("--accept and --reject contradict each other.", "Give one of them.")
    if (accept or reject or note) and summary is None:
        raise UsageError("there is no summary to review.", "Give its number: `swarm review` lists them.")
    if note and not (accept or reject):
        raise UsageError("a note comes with a verdict.", "Add --accept or --reject.")
    if state is not None and state not in STATES:
        raise UnknownNameError("state", state, ", ".join(STATES))
    if summary is None:
        _list(state, store, json)
    elif accept or reject:
        _decide(summary, "accepted" if accept else "rejected", note, store, json)
    else:
        from swarm.orchestrator.reading import open_store

        with open_store(store) as opened:
            show(opened, summary, json)


def _list(state: Any, store: str | None, json: bool) -> None:
    from swarm.orchestrator.reading import open_store

    with open_store(store) as opened:
        rows = [_row(record) for record in opened.summaries.list(state=state)]
    columns = [Column(name) for name in ("id", "campaign_id", "title", "author", "state", "reviewer", "note")]
    listing(rows, columns, as_json=json, empty="No summaries.")


def show(store: Store, summary: int, json: bool) -> None:
    """Print a summary with its numbers filled in from the store."""
    from swarm.orchestrator.ending import show_markdown
    from swarm.orchestrator.reading import rendered

    record = store.summaries.get(summary)
    text = rendered(store, store.campaigns.get(record.campaign_id), record.summary.text)
    if json:
        emit_json({**_row(record), "text": text})
        return
    show_markdown(text)
    say(f"\nSummary {record.id} by {record.summary.author}: {record.summary.state}" + _by(record))


def _decide(summary: int, state: Any, note: str, store: str | None, json: bool) -> None:
    import getpass

    from swarm.memory.store import Store
    from swarm.orchestrator.settings import store_url

    with Store.open(store_url(store)) as opened:
        record = opened.summaries.review(summary, state, getpass.getuser(), note)
    if json:
        emit_json(_row(record))
    else:
        say(f"Summary {record.id} is {state}{_by(record)}")


def _row(record: SummaryRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "campaign_id": record.campaign_id,
        **record.summary.model_dump(mode="json"),
        "reviewer": record.reviewer,
        "note": record.note,
        "reviewed_at": record.reviewed_at and record.reviewed_at.isoformat(),
    }


def _by(record: SummaryRecord) -> str:
    return (f" by {record.reviewer}" if record.reviewer else "") + (f": {record.note}" if record.note else ".")
