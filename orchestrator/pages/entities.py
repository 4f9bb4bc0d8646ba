"""What several pages show alike: trials and findings as columns of tables, intervals, states, moments, crumbs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from swarm.orchestrator.pages.blocks import Columns, Interval, Num, Ref, RefKind, Refs, Tag, Tone
from swarm.orchestrator.views.trials import layers

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord, FindingRecord, Prediction, TrialRecord

FINDING_TONES: dict[str, Tone] = {"confirmed": "good", "refuted": "bad", "hypothesis": "plain"}
VERDICT_TONES: dict[str, Tone] = {"confirmed": "good", "refuted": "bad", "inconclusive": "plain", "open": "warn"}
TRIAL_TONES: dict[str, Tone] = {"complete": "good", "failed": "bad", "quarantined": "bad", "running": "warn"}
REVIEW_TONES: dict[str, Tone] = {"accepted": "good", "rejected": "bad", "pending": "warn"}
CAMPAIGN_TONES: dict[str, Tone] = {"running": "warn", "complete": "good", "failed": "bad", "interrupted": "warn"}


def numbered(kind: RefKind, identity: int) -> Ref:
    """A link that shows only the number; what it is stands in its title."""
    return Ref(kind, identity, str(identity), f"{kind} {identity}")


def trials(ids: Iterable[int], most: int = 6) -> Refs:
    """Links to several trials, the first `most` of them shown."""
    return Refs(tuple(numbered("trial", identity) for identity in ids), most)


def crumbs(campaign: CampaignRecord, text: str = "", place: str = "") -> tuple[Ref, ...]:
    """Links from a page up to its campaign, and to a place on the campaign's page."""
    above = Ref("campaign", campaign.id, campaign.name)
    return (above, Ref("campaign", campaign.id, text or place, place=place)) if place else (above,)


def moment(value: datetime | None) -> str | None:
    """A moment for people, in UTC as the store keeps it."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else None


def span(value: float, stderr: float | None, n: int | None, unit: str = "") -> Interval:
    """The 95% Student t interval of a mean over `n` windows; of no width when nothing is known of its error."""
    from swarm.agents.analysis.statistics import Estimate

    if stderr is None or n is None or n < 2:
        return Interval(value, value, value, unit)
    low, high = Estimate(value, stderr, n - 1, n).interval()
    return Interval(value, low, high, unit)


def kld_span(value: float, stderr: float | None, n: int | None) -> Interval:
    """The interval of a divergence, which cannot be negative."""
    found = span(value, stderr, n)
    return replace(found, low=max(found.low, 0.0))


def metric(record: TrialRecord, name: str) -> Interval | None:
    """A metric of a trial with its interval."""
    found = record.metrics.get(name)
    if found is None:
        return None
    if name == "kld":
        return kld_span(found.value, found.stderr, found.n)
    return span(found.value, found.stderr, found.n, found.unit)


def status(text: str) -> Tag:
    """The status of a finding."""
    return Tag(text, FINDING_TONES.get(text, "plain"))


def effect(record: FindingRecord) -> Interval | None:
    """The effect of a finding with its interval."""
    found = record.finding.effect
    return Interval(found.value, found.low, found.high, found.unit) if found else None


def trial_state(record: TrialRecord) -> Tag:
    """The state of a trial, its outcome when that says more, and whether its versions are older ones."""
    outcome = f": {record.outcome}" if record.outcome not in ("", "ok", record.state) else ""
    if record.outdated:
        return Tag(f"{record.state}{outcome}, older version", "warn")
    return Tag(record.state + outcome, TRIAL_TONES.get(record.state, "plain"))


def claim(prediction: Prediction) -> str:
    """A prediction in words."""
    of = f" × that of trial {prediction.reference}" if prediction.reference is not None else ""
    return f"{prediction.metric} {prediction.comparator} {prediction.threshold:.4g}{of}"


def _bits(record: TrialRecord) -> float | None:
    found = record.metrics.get("bits_per_value")
    return found.value if found else None


FINDINGS: Columns = {
    "Finding": lambda record: Ref("finding", record.id, f"{record.id} {record.finding.kind}"),
    "Status": lambda record: status(record.finding.status),
    "Statement": lambda record: record.finding.statement,
    Num("Effect"): effect,
    "Evidence": lambda record: trials(record.finding.evidence),
}
"""The columns of a table of findings."""

TRIALS: Columns = {
    "Trial": lambda record: numbered("trial", record.id),
    Num("Bits/value"): _bits,
    Num("KLD, 95% interval"): lambda record: metric(record, "kld"),
    "Model": lambda record: record.spec.model,
    "Configuration": lambda record: record.spec.label,
    "Layers": lambda record: layers(record.spec.layers),
    "Protocol": lambda record: f"{record.spec.protocol} {record.spec.rung}".removesuffix(" 0"),
    "State": trial_state,
    "Proposer": lambda record: record.proposer,
}
"""The columns of a table of trials."""
