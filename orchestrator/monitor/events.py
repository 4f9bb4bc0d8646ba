"""What happens in a campaign, as typed events, and how they are read from the store, whoever drives the campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from swarm.agents.history import FINISHED
from swarm.memory.records import (
    Account,
    CampaignRecord,
    Finding,
    Prediction,
    PredictionRecord,
    SummaryRecord,
    TrialRecord,
)
from swarm.orchestrator.console import number

if TYPE_CHECKING:
    from swarm.memory.store import Store

Kind = Literal["open", "phase", "proposal", "retry", "trial", "finding", "prediction", "summary", "spend"]


@dataclass(frozen=True)
class CampaignEvent:
    """Something that happened; `str(event)` says it in one line."""

    kind: ClassVar[Kind]


@dataclass(frozen=True)
class CampaignOpened(CampaignEvent):
    """The first event: the campaign with what earlier runs and other drivers have done. Trials are without arrays."""

    kind = "open"
    campaign: CampaignRecord
    trials: tuple[TrialRecord, ...]
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        done = sum(record.state in FINISHED for record in self.trials)
        return f"campaign {self.campaign.name}: {done} of {self.campaign.budget.trials} trials are done"


@dataclass(frozen=True)
class PhaseChanged(CampaignEvent):
    """What the driver does besides trials; empty when it is over."""

    kind = "phase"
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TrialProposed(CampaignEvent):
    """Somebody wants a trial, and may have predicted what it will show."""

    kind = "proposal"
    record: TrialRecord

    def __str__(self) -> str:
        record, spec = self.record, self.record.spec
        expects = f", predicts {predicted(record.prediction)}" if record.prediction else ""
        protocol = "" if spec.protocol == "quality" and not spec.rung else f" {spec.protocol}"
        rung = f" rung {spec.rung}" if spec.rung else ""
        return f"{record.id} {record.proposer}{expects}: {record.spec.label} on {spec.model}{protocol}{rung}"


@dataclass(frozen=True)
class TrialRetried(CampaignEvent):
    """A trial lost its worker and is run once more."""

    kind = "retry"
    record: TrialRecord

    def __str__(self) -> str:
        return f"trial {self.record.id} is tried once more: {self.record.message}"


@dataclass(frozen=True)
class TrialFinished(CampaignEvent):
    """A trial ended, with a measurement or with a failure. The record is without arrays."""

    kind = "trial"
    record: TrialRecord

    def __str__(self) -> str:
        record = self.record
        if record.state != "complete":
            return f"trial {record.id} {record.outcome or record.state}: {record.message}"
        values = ", ".join(
            f"{name} {number(record.metrics[name].value, 3)}"
            for name in ("kld", "bits_per_value")
            if name in record.metrics
        )
        return f"trial {record.id} {record.spec.label} on {record.spec.model}: {values or 'measured'}"


@dataclass(frozen=True)
class FindingChanged(CampaignEvent):
    """A claim is new, or has another status now."""

    kind = "finding"
    finding: Finding

    def __str__(self) -> str:
        finding, effect = self.finding, self.finding.effect
        size = (
            f" {number(effect.value, 3)} [{number(effect.low, 3)}, {number(effect.high, 3)}]"
            if effect is not None
            else ""
        )
        return f"{finding.kind} [{finding.status}]{size} {finding.statement}"


@dataclass(frozen=True)
class PredictionScored(CampaignEvent):
    """A registered prediction was confirmed or refuted, or cannot be decided."""

    kind = "prediction"
    scored: PredictionRecord

    def __str__(self) -> str:
        scored = self.scored
        seen = "" if scored.observed is None else f", is {number(scored.observed, 3)}"
        if scored.low is not None and scored.high is not None:
            seen += f" [{number(scored.low, 3)}, {number(scored.high, 3)}]"
        what = f"trial {scored.trial_id} {predicted(scored.prediction)}{seen} ({scored.proposer})"
        return f"prediction {scored.verdict}: {what}"


@dataclass(frozen=True)
class SummaryWritten(CampaignEvent):
    """The agents wrote a summary for people."""

    kind = "summary"
    record: SummaryRecord

    def __str__(self) -> str:
        return f"summary {self.record.id}: {self.record.summary.title}"


@dataclass(frozen=True)
class BudgetSpent(CampaignEvent):
    """What is spent of the budget now, by kind of account."""

    kind = "spend"
    accounts: Mapping[str, Account]

    def __str__(self) -> str:
        return ", ".join(f"{number(account.spent)} {name}" for name, account in self.accounts.items())


def predicted(prediction: Prediction) -> str:
    """A prediction in a few words."""
    of = "" if prediction.reference is None else f" x trial {prediction.reference}"
    return f"{prediction.metric} {prediction.comparator} {number(prediction.threshold, 3)}{of}"


class EventReader:
    """Reads what is new in a campaign from its store; each change is told once.

    Args:
        store: where the campaign is; only read.
        campaign_id: which campaign.
    """

    def __init__(self, store: Store, campaign_id: int) -> None:
        self._store = store
        self._campaign_id = campaign_id
        self._last_number = -1
        self._last_event = 0
        self._unfinished: set[int] = set()
        self._statuses: dict[str, str] = {}
        self._verdicts: dict[int, str] = {}
        self._accounts: Mapping[str, Account] = {}

    def open(self) -> list[CampaignEvent]:
        """Take note of all that is there: one `CampaignOpened`, and what is spent."""
        latest = self._store.events.list(self._campaign_id, limit=1, newest=True)
        self._last_event = latest[-1].id if latest else 0
        trials = self._store.trials.list(self._campaign_id, arrays=False)
        for record in trials:
            self._note(record)
            self._verdicts[record.id] = record.verdict or "open"
        findings = tuple(known.finding for known in self._store.findings.list(self._campaign_id))
        self._statuses = {finding.key: finding.status for finding in findings}
        campaign = self._store.campaigns.get(self._campaign_id)
        return [CampaignOpened(campaign, tuple(trials), findings), *self._spent()]

    def read(self) -> list[CampaignEvent]:
        """What is new since the last call."""
        found: list[CampaignEvent] = []
        waited = self._store.trials.list(ids=sorted(self._unfinished), arrays=False) if self._unfinished else []
        fresh = self._store.trials.list(self._campaign_id, after=self._last_number, arrays=False)
        found += [TrialProposed(record) for record in fresh]
        found += [TrialFinished(record) for record in (*waited, *fresh) if record.state in FINISHED]
        for record in (*waited, *fresh):
            self._note(record)
        events = self._store.events.list(self._campaign_id, after=self._last_event)
        self._last_event = max([self._last_event, *(event.id for event in events)])
        if any(event.kind.startswith("finding.") for event in events):
            found += self._changed_findings([known.finding for known in self._store.findings.list(self._campaign_id)])
        if any(event.kind.startswith("prediction.") for event in events):
            found += self._scored(self._store.predictions.list(self._campaign_id))
        return found + self._spent()

    def _note(self, record: TrialRecord) -> None:
        self._last_number = max(self._last_number, record.number)
        (self._unfinished.discard if record.state in FINISHED else self._unfinished.add)(record.id)

    def _changed_findings(self, findings: Sequence[Finding]) -> list[CampaignEvent]:
        changed = [finding for finding in findings if self._statuses.get(finding.key) != finding.status]
        self._statuses |= {finding.key: finding.status for finding in changed}
        return [FindingChanged(finding) for finding in changed]

    def _scored(self, predictions: Sequence[PredictionRecord]) -> list[CampaignEvent]:
        changed = [scored for scored in predictions if self._verdicts.get(scored.trial_id, "open") != scored.verdict]
        self._verdicts |= {scored.trial_id: scored.verdict for scored in changed}
        return [PredictionScored(scored) for scored in changed if scored.verdict != "open"]

    def _spent(self) -> list[CampaignEvent]:
        accounts = self._store.ledger.totals(self._campaign_id)
        if accounts == self._accounts:
            return []
        self._accounts = accounts
        return [BudgetSpent(accounts)]
