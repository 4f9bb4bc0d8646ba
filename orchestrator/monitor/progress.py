"""How a campaign stands, as people want to see it: counts, rate, time left, best per model, and what happened last."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from swarm.agents.history import FINISHED
from swarm.memory.front import Point, pareto_front
from swarm.memory.records import Account, Finding, TrialRecord
from swarm.orchestrator.console import clean, number
from swarm.orchestrator.monitor.events import (
    BudgetSpent,
    CampaignEvent,
    CampaignOpened,
    FindingChanged,
    Kind,
    PhaseChanged,
    PredictionScored,
    TrialFinished,
    TrialProposed,
)

RATE_TRIALS = 40
"""Trials over which the rate is taken."""
MAX_LINES = 60
"""Lines that are kept."""
TARGET_BITS = 4.6
"""Bits per value under which the best configuration of a model is shown."""
Mood = Literal["good", "bad", ""]
MOODS: Mapping[str, Mood] = {"confirmed": "good", "refuted": "bad"}


@dataclass(frozen=True)
class Line:
    """One line of news: of which kind of event, the text, and whether it is good, bad or neither."""

    kind: Kind
    text: str
    mood: Mood = ""

    def cut(self, width: int | None = None) -> str:
        """The text on one line, cut between words to so many characters."""
        text = clean(self.text).replace("\n", " ").replace("\t", " ")
        if width is None or len(text) <= width:
            return text
        head = text[: max(1, width - 1)]
        space = head.rfind(" ")
        return (head[:space] if space > 0.5 * width else head).rstrip(" ,;:") + "…"


@dataclass(frozen=True)
class Best:
    """The lowest KLD of a model on the cheap rung at no more than `TARGET_BITS` bits per value."""

    kld: float
    bits: float
    label: str
    number: int


@dataclass
class Progress:
    """The state of a campaign that its events add up to.

    `points` are (KLD in nats, bits per value) of the measured configurations by model, those of the cheap rung alone:
    KLD compares within a rung only. `began` is when this run began, in seconds since the epoch.
    """

    began: float = field(default_factory=time.time)
    total: int = 0
    models: tuple[str, ...] = ()
    name: str = ""
    phase: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    per_model: Counter[str] = field(default_factory=Counter)
    best: dict[str, Best] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    spend: Mapping[str, Account] = field(default_factory=dict)
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    proposals: deque[Line] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    proposed: int = 0
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_TRIALS))

    def apply(self, event: CampaignEvent) -> Line | None:
        """Take an event in; the line that people are to see of it, if any."""
        line = self._line(event)
        if line is not None:
            (self.proposals if line.kind == "proposal" else self.lines).append(line)
        return line

    def _line(self, event: CampaignEvent) -> Line | None:
        match event:
            case CampaignOpened():
                self._open(event)
                return None
            case BudgetSpent(accounts):
                self.spend = accounts
                return None
            case PhaseChanged(text):
                news = text and text != self.phase
                self.phase = text
                return Line("phase", text) if news else None
            case TrialProposed():
                self.proposed += 1
                return Line("proposal", str(event))
            case TrialFinished(record):
                self.phase = ""
                self._count(record)
                if record.state != "complete":
                    return Line("trial", str(event), "bad")
                return self._best_line(record)
            case FindingChanged(finding):
                self.findings[finding.key] = finding
                return Line("finding", str(event), MOODS.get(finding.status, ""))
            case PredictionScored(scored):
                return Line("prediction", str(event), MOODS.get(scored.verdict, ""))
        return Line("phase", str(event))

    def _open(self, event: CampaignOpened) -> None:
        campaign = event.campaign
        self.name, self.total = campaign.name, campaign.budget.trials
        self.models = tuple(campaign.settings.get("models") or ())
        self.findings = {finding.key: finding for finding in event.findings}
        self.proposed = len(event.trials)
        for record in event.trials:
            if record.state in FINISHED:
                self._count(record)

    def _count(self, record: TrialRecord) -> None:
        ended = record.finished_at.timestamp() if record.finished_at else time.time()
        if ended >= self.began:
            self._ends.append(ended)
        self.outcomes[record.outcome or record.state] += 1
        self.per_model[record.spec.model] += 1
        metrics, spec = record.metrics, record.spec
        cheap = spec.protocol == "quality" and not spec.rung
        if record.state != "complete" or not cheap or not {"kld", "bits_per_value"} <= set(metrics):
            return
        kld, bits = metrics["kld"].value, metrics["bits_per_value"].value
        self.points.setdefault(spec.model, []).append((kld, bits))
        known = self.best.get(spec.model)
        if bits <= TARGET_BITS and (known is None or kld < known.kld):
            self.best[spec.model] = Best(kld, bits, record.spec.label, record.number)

    def _best_line(self, record: TrialRecord) -> Line | None:
        best = self.best.get(record.spec.model)
        if best is None or best.number != record.number:
            return None
        found = (
            f"KLD {number(best.kld, 3)} at {best.bits:.2f} bits, {best.label} (trial {record.id}, {record.proposer})"
        )
        return Line("trial", f"best {record.spec.model} at <= {TARGET_BITS} bits: {found}", "good")

    @property
    def done(self) -> int:
        """Trials that ended."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """Trials that ended without a measurement."""
        return self.done - self.outcomes["ok"]

    @property
    def running(self) -> int:
        """Trials that were proposed and have not ended."""
        return self.proposed - self.done

    @property
    def rate(self) -> float | None:
        """Trials per second over the last ones; None before there are any."""
        first, last = min(self._ends, default=0.0), max(self._ends, default=0.0)
        return (len(self._ends) - 1) / (last - first) if last > first else None

    @property
    def eta(self) -> float | None:
        """Seconds left at that rate."""
        rate = self.rate
        return (self.total - self.done) / rate if rate else None

    @property
    def elapsed(self) -> float:
        """Seconds since this run began."""
        return max(0.0, time.time() - self.began)

    def plateaus(self, model: str) -> list[str]:
        """What stands still on a model, in a few words each."""
        standing = (f for f in self.findings.values() if f.kind == "plateau" and f.status != "refuted")
        return [text for f in standing if model in f.models and (text := _plateau(f.key))]

    def front(self, model: str) -> list[Point]:
        """The points that no other undercuts in both KLD and bits, by bits."""
        points = self.points.get(model, [])
        return [points[index] for index in pareto_front(points)]


def _plateau(key: str) -> str:
    """What a finding of a plateau says stands still, from its key; empty when it says something else."""
    match key.split(":"):
        case ["plateau", "kld", bits, *_]:
            return f"KLD <= {bits} bits"
        case ["plateau", "bits", kld, *_]:
            return f"bits at KLD {kld}"
    return ""
