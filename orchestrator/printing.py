"""How several commands print the same thing: trials as a table, a summary with its evidence, markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.orchestrator.console import Column, clean, console, emit_json, listing, number, say
from swarm.orchestrator.views.summaries import LinkRow, shown_summary

if TYPE_CHECKING:
    from swarm.memory.records import SummaryRecord
    from swarm.memory.store import Store

MAX_TRIALS_SHOWN = 16
"""Trials of a finding that are listed."""

TRIAL_COLUMNS = (
    Column("id", "trial", justify="right"),
    Column("model"),
    Column("protocol"),
    Column("rung", justify="right"),
    Column("configuration"),
    Column("layers"),
    Column("bits_per_value", "bits", lambda value: number(value, 3), "right"),
    Column("kld", "KLD", lambda value: number(value, 3), "right"),
    Column("state"),
    Column("outcome"),
    Column("proposer"),
)


def show_markdown(text: str) -> None:
    """Print markdown: formatted in a terminal, as it is in a pipe."""
    if console().is_terminal:
        from rich.markdown import Markdown

        console().print(Markdown(clean(text)), soft_wrap=False)
    else:
        say(text)


def show_summary(store: Store, summary: int, *, as_json: bool) -> None:
    """Print a summary with its numbers filled in from the store, each with the trials that it comes from."""
    record = store.summaries.get(summary)
    shown = shown_summary(store, record)
    if as_json:
        emit_json(shown)
        return
    show_markdown(shown["text"])
    _evidence(shown["references"])
    say(f"\nSummary {record.id} by {record.summary.author}: {record.summary.state}{reviewed(record)}")
    if record.summary.state == "pending":
        say(f"Decide: `swarm review {record.id} --accept` or `swarm review {record.id} --reject --note WHY`.")


def _evidence(links: Sequence[LinkRow]) -> None:
    """The trials behind each finding; a number of a trial names its trial in the text."""
    rows = [
        {"finding": link["shown"].removeprefix("finding "), "trials": link["trials"]}
        for link in links
        if link["trials"] and link["reference"].startswith("finding:") and link["reference"].count(":") == 1
    ]
    if rows:
        say("\nEvidence; `swarm show finding ID` and `swarm show trial ID` tell all about one.")
        listing(rows, [Column("finding", justify="right"), Column("trials", show=_ids)], as_json=False)


def _ids(trials: Sequence[int]) -> str:
    more = f" and {len(trials) - MAX_TRIALS_SHOWN} more" if len(trials) > MAX_TRIALS_SHOWN else ""
    return " ".join(map(str, trials[:MAX_TRIALS_SHOWN])) + more


def minute(text: str) -> str:
    """A moment to the minute."""
    return text[:16].replace("T", " ")


def reviewed(record: SummaryRecord) -> str:
    """Who reviewed a summary, when, and the note; the end of a sentence."""
    when = f" at {minute(record.reviewed_at.isoformat())} UTC" if record.reviewed_at else ""
    return (f" by {record.reviewer}{when}" if record.reviewer else "") + (f": {record.note}" if record.note else ".")
