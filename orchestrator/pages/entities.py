"""Trials and findings as rows of tables, the same on every page. Knows records; knows no HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.orchestrator.pages import intervals
from swarm.orchestrator.pages.blocks import Cell, Column, Interval, Ref, Refs, Tag, Tone

if TYPE_CHECKING:
    from swarm.memory.records import FindingRecord, Prediction, TrialRecord

FINDING_TONES: dict[str, Tone] = {"confirmed": "good", "refuted": "bad", "hypothesis": "plain"}
VERDICT_TONES: dict[str, Tone] = {"confirmed": "good", "refuted": "bad", "inconclusive": "plain", "open": "warn"}
TRIAL_TONES: dict[str, Tone] = {"complete": "good", "failed": "bad", "quarantined": "bad", "running": "warn"}
REVIEW_TONES: dict[str, Tone] = {"accepted": "good", "rejected": "bad", "pending": "warn"}

FINDING_COLUMNS = (
    Column("Finding"), Column("Status"), Column("Statement"), Column("Effect", True), Column("Evidence"),
)  # fmt: skip
TRIAL_COLUMNS = (
    Column("Trial"), Column("Bits/value", True), Column("KLD, 95% interval", True), Column("Model"),
    Column("Configuration"), Column("Layers"), Column("Protocol"), Column("State"), Column("Proposer"),
)  # fmt: skip


def finding_row(record: FindingRecord) -> list[Cell]:
    """A finding under `FINDING_COLUMNS`."""
    finding = record.finding
    return [
        Ref("finding", record.id, f"{record.id} {finding.kind}"),
        status(finding.status),
        finding.statement,
        effect(record),
        Refs(tuple(Ref("trial", trial, str(trial), f"trial {trial}") for trial in finding.evidence)),
    ]


def status(text: str) -> Tag:
    """The status of a finding."""
    return Tag(text, FINDING_TONES.get(text, "plain"))


def effect(record: FindingRecord) -> Interval | None:
    """The effect of a finding with its interval."""
    found = record.finding.effect
    return Interval(found.value, found.low, found.high, found.unit) if found else None


def trial_row(record: TrialRecord) -> list[Cell]:
    """A trial under `TRIAL_COLUMNS`."""
    spec = record.spec
    bits = record.metrics.get("bits_per_value")
    return [
        Ref("trial", record.id, str(record.id), f"trial {record.id}"),
        bits.value if bits else None,
        metric(record, "kld"),
        spec.model,
        spec.kv.label,
        layers(spec.layers),
        f"{spec.protocol} {spec.rung}" if spec.rung else spec.protocol,
        trial_state(record),
        record.proposer,
    ]


def metric(record: TrialRecord, name: str) -> Interval | None:
    """A metric of a trial with its interval."""
    found = record.metrics.get(name)
    if found is None:
        return None
    if name == "kld":
        return intervals.kld(found.value, found.stderr, found.n)
    return intervals.of(found.value, found.stderr, found.n, found.unit)


def trial_state(record: TrialRecord) -> Tag:
    """The state of a trial, and its outcome when that says more."""
    outcome = f": {record.outcome}" if record.outcome not in ("", "ok", record.state) else ""
    return Tag(record.state + outcome, TRIAL_TONES.get(record.state, "plain"))


def layers(found: tuple[int, ...] | None) -> str:
    """Which layers are quantized, in a few characters."""
    if found is None:
        return "all"
    if len(found) > 1 and found == tuple(range(found[0], found[-1] + 1)):
        return f"{found[0]}-{found[-1]}"
    return ", ".join(map(str, found))


def claim(prediction: Prediction) -> str:
    """A prediction in words."""
    of = f" × that of trial {prediction.reference}" if prediction.reference is not None else ""
    return f"{prediction.metric} {prediction.comparator} {prediction.threshold:.4g}{of}"
