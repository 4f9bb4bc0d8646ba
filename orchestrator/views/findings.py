"""Findings as rows, and those that the measurements do not carry any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from swarm.orchestrator.console import number
from swarm.orchestrator.views.source import Source, stored_models

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo
    from swarm.memory.records import CampaignRecord, Effect, FindingRecord


def finding_row(record: FindingRecord) -> dict[str, Any]:
    """A finding as one row of a listing: its fields, its number, and its effect in words."""
    finding = record.finding
    return {"id": record.id, **finding.model_dump(mode="json"), "interval": interval(finding.effect)}


def by_device(source: Source) -> dict[str, dict[str, str]]:
    """By key and device, what a campaign's trials say of its findings, and what those on other devices do.

    The latest campaign of each other device counts that measured the same models, text and context. Empty where there
    is none.
    """
    from swarm.agents.analysis.verify import elsewhere

    others = _on_other_devices(source)
    if not others:
        return {}
    findings = [record.finding for record in source.findings]
    device, _ = _measured(source.campaign)
    infos = _infos(source)
    there = {other: elsewhere(findings, its.history, infos) for other, its in others.items()}
    return {
        finding.key: {str(device): finding.status}
        | {other: found.get(finding.key, UNTESTED) for other, found in there.items()}
        for finding in findings
    }


def _on_other_devices(source: Source) -> dict[str, Source]:
    device, what = _measured(source.campaign)
    known = sorted(source.store.campaigns.list(), key=lambda campaign: campaign.id)
    same = {other: c for c in known for other, measured in (_measured(c),) if measured == what}
    return {other: Source(source.store, c) for other, c in same.items() if device and other not in (None, device)}


def _measured(campaign: CampaignRecord) -> tuple[str | None, tuple[object, ...]]:
    """The device of a campaign, and what it measured."""
    identity = campaign.settings.get("identity", {})
    return identity.get("device"), (identity.get("models"), identity.get("corpus"), campaign.settings.get("context"))


def _infos(source: Source) -> dict[str, ModelInfo]:
    known = stored_models(source.store)
    return {name: known[name] for name in source.campaign.settings.get("models", ()) if name in known}


def finding_rows() -> object:
    """The type of a list of such rows."""
    from swarm.memory.records import Finding

    class FindingRow(Finding):
        id: int
        interval: str | None
        devices: dict[str, str]

    return list[FindingRow]


def interval(effect: Effect | None) -> str | None:
    """An effect with its interval, in a few words."""
    if effect is None:
        return None
    text = f"{number(effect.value, 3)} [{number(effect.low, 3)}, {number(effect.high, 3)}]"
    return f"{effect.name} {text}" + (f" {effect.unit}" if effect.unit and effect.unit != "ratio" else "")


UNTESTED = "untested"
"""What stands for the status of a finding on a device whose trials do not decide it."""


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

    settings = source.campaign.settings
    agenda = schema.load(settings["agenda"]) if settings.get("agenda") else None
    changes, outdated = recheck(source.history, _infos(source), agenda)
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
