"""Summaries as rows, with every number of a text linked to the trials that it comes from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from swarm.agents.history import History
    from swarm.agents.writing.references import Resolver
    from swarm.memory.records import SummaryRecord
    from swarm.memory.store import Store


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


def summary_row(record: SummaryRecord, campaign: str) -> SummaryRow:
    """A summary as one row of a listing.

    Args:
        record: the summary.
        campaign: the name of its campaign.
    """
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


def shown_summary(store: Store, identity: int) -> ShownSummary:
    """A summary with its numbers filled in from the store, each with the trials that it comes from.

    In the text each number is followed by its origin, as in `0.065 [trial 143]`; what the same line names anyway is
    not said again.
    """
    from swarm.agents.writing.references import PATTERN
    from swarm.orchestrator.views.source import Source

    record = store.summaries.get(identity)
    campaign = store.campaigns.get(record.campaign_id)
    resolver = Source(store, campaign).resolver
    references = dict.fromkeys(match.group(0)[1:-1] for match in PATTERN.finditer(record.summary.text))
    links: list[LinkRow] = [
        {"reference": name, "shown": resolver.render(f"{{{name}}}"), "trials": _trials(name, resolver.history)}
        for name in references
    ]
    text = "\n".join(_linked(line, resolver, PATTERN) for line in record.summary.text.split("\n"))
    return {**summary_row(record, campaign.name), "text": text, "references": links}


def _linked(line: str, resolver: Resolver, pattern: re.Pattern[str]) -> str:
    named = {match.group(0)[1:-1] for match in pattern.finditer(line) if match.group(2).isdecimal()}

    def replace(match: re.Match[str]) -> str:
        reference = match.group(0)[1:-1]
        shown = resolver.render(match.group(0))
        kind, _, rest = reference.partition(":")
        origin = f"{kind}:{rest.partition(':')[0]}"
        if kind == "fact" or origin in named or origin == reference:
            return shown
        return f"{shown} [{origin.replace(':', ' ')}]"

    return pattern.sub(replace, line)


def _trials(reference: str, history: History) -> list[int]:
    """The trials that carry a reference; a fact comes from all trials and names none."""
    kind, _, rest = reference.partition(":")
    identity = rest.partition(":")[0]
    if not identity.isdecimal() or kind == "fact":
        return []
    if kind == "trial":
        return [r.id for r in history.records if r.id == int(identity)]
    return list(next((f.finding.evidence for f in history.findings if f.id == int(identity)), ()))
