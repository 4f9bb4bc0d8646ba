"""Findings as rows, and those that the measurements do not carry any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from swarm.orchestrator.console import number

if TYPE_CHECKING:
    from swarm.memory.records import Effect, FindingRecord
    from swarm.orchestrator.views.source import Source


def finding_row(record: FindingRecord) -> dict[str, Any]:
    """A finding as one row of a listing: its fields, its number, and its effect in words."""
    finding = record.finding
    return {"id": record.id, **finding.model_dump(mode="json"), "interval": interval(finding.effect)}


def finding_rows() -> object:
    """The type of a list of such rows."""
    from swarm.memory.records import Finding

    class FindingRow(Finding):
        id: int
        interval: str | None

    return list[FindingRow]


def interval(effect: Effect | None) -> str | None:
    """An effect with its interval, in a few words."""
    if effect is None:
        return None
    text = f"{number(effect.value, 3)} [{number(effect.low, 3)}, {number(effect.high, 3)}]"
    return f"{effect.name} {text}" + (f" {effect.unit}" if effect.unit and effect.unit != "ratio" else "")


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
    """All findings judged again, but for those that rest on results of an older version."""

    findings: int
    outdated: int
    changed: list[ChangedRow]
    fell: int


def checked(source: Source) -> Checked:
    """Judge every finding of a campaign again, from the measurements as they are stored now.

    Raises:
        UsageError: the campaign's agenda cannot be read any more.
    """
    from swarm.agents.analysis.verify import recheck
    from swarm.agents.published_claims import schema
    from swarm.experiments.models.base import ModelInfo

    settings = source.campaign.settings
    known = {info["name"]: ModelInfo.model_validate(info) for info in source.store.models.list()}
    infos = {name: known[name] for name in settings.get("models", ()) if name in known}
    agenda = schema.load(settings["agenda"]) if settings.get("agenda") else None
    changes, outdated = recheck(source.history, infos, agenda)
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
        for change in changes
    ]
    return {
        "findings": len(source.findings),
        "outdated": len(outdated),
        "changed": rows,
        "fell": sum(row["fell"] for row in rows),
    }
