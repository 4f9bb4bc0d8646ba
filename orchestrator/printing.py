"""How several commands print the same thing: trials as a table, a summary with its evidence, markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.orchestrator.console import Column, clean, console, listing, say
from swarm.orchestrator.views.summaries import LinkRow, SummaryRow, shown_summary
from swarm.orchestrator.views.trials import trial_row

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store

MAX_TRIALS_SHOWN = 16
"""Trials of a finding that are listed."""

TRIAL_COLUMNS = (
    Column("id", "trial", right=True),
    Column("model"),
    Column("protocol"),
    Column("rung", right=True),
    Column("configuration"),
    Column("layers"),
    Column("bits_per_value", "bits", digits=3),
    Column("kld", "KLD", digits=3),
    Column("state"),
    Column("outcome"),
    Column("proposer"),
)


def _size(value: float) -> str:
    from swarm.experiments.sizing.units import size

    return size(value)


ENGINE_COLUMNS = (
    *(column for column in TRIAL_COLUMNS[:5] if column.key != "protocol"),
    Column("decode_rate", "decode tok/s", digits=3),
    Column("prefill_rate", "prefill tok/s", digits=3),
    Column("memory", show=_size, right=True),
    Column("kld_upper", "KLD, upper limit", digits=3),
    *TRIAL_COLUMNS[-3:],
)
"""Where trials started an engine."""


def list_trials(records: Sequence[TrialRecord], *, as_json: bool = False, empty: str = "Nothing yet.") -> None:
    """Print trials; where some ran with an older version of their protocol or a method, a column marks them."""
    columns_of_kind = ENGINE_COLUMNS if any(record.spec.engine for record in records) else TRIAL_COLUMNS
    marked = Column("outdated", "version", lambda outdated: "older" if outdated else "present")
    columns = [*columns_of_kind, marked] if any(record.outdated for record in records) else columns_of_kind
    rows = [trial_row(record) for record in records]
    listing(rows if as_json else [{**row["metrics"], **row} for row in rows], columns, as_json=as_json, empty=empty)


def show_markdown(text: str) -> None:
    """Print markdown: formatted in a terminal, as it is in a pipe."""
    if console().is_terminal:
        from rich.markdown import Markdown

        console().print(Markdown(clean(text)), soft_wrap=False)
    else:
        say(text)


def show_summary(store: Store, identity: int) -> None:
    """Print a summary with its numbers filled in from the store, each with the trials that it comes from."""
    summary = shown_summary(store, identity)
    show_markdown(summary["text"])
    _evidence(summary["references"])
    say(f"\nSummary {identity} by {summary['author']}: {summary['state']}{reviewed(summary)}")
    if summary["state"] == "pending":
        say(f"Decide: `swarm review {identity} --accept` or `swarm review {identity} --reject --note WHY`.")


def _evidence(links: Sequence[LinkRow]) -> None:
    """The trials behind each finding; a number of a trial names its trial in the text."""
    rows = [
        {"finding": link["shown"].removeprefix("finding "), "trials": link["trials"]}
        for link in links
        if link["trials"] and link["reference"].startswith("finding:") and link["reference"].count(":") == 1
    ]
    if rows:
        say("\nEvidence; `swarm show finding ID` and `swarm show trial ID` tell all about one.")
        listing(rows, [Column("finding", right=True), Column("trials", show=_ids)])


def _ids(trials: Sequence[int]) -> str:
    more = f" and {len(trials) - MAX_TRIALS_SHOWN} more" if len(trials) > MAX_TRIALS_SHOWN else ""
    return " ".join(map(str, trials[:MAX_TRIALS_SHOWN])) + more


def minute(text: str) -> str:
    """A moment to the minute."""
    return text[:16].replace("T", " ")


def reviewed(summary: SummaryRow) -> str:
    """Who reviewed a summary, when, and the note; the end of a sentence."""
    when = f" at {minute(summary['reviewed_at'])} UTC" if summary["reviewed_at"] else ""
    by = f" by {summary['reviewer']}{when}" if summary["reviewer"] else ""
    return f"{by}: {summary['note']}" if summary["note"] else f"{by}."
