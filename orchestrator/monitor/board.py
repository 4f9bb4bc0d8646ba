"""The state of a campaign as people want to see it, and the news in it. Knows records; knows no terminal, no store.

Whatever is told twice counts once: a driver tells it what it does, and a look into the store tells it the rest.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from swarm.agents.history import FINISHED
from swarm.memory.records import Account, Finding, PredictionRecord, TrialRecord
from swarm.orchestrator.monitor import news
from swarm.orchestrator.monitor.news import TARGET_BITS as TARGET_BITS
from swarm.orchestrator.monitor.news import News, describe

RECENT = 40
"""Trials over which the rate is taken."""
KEPT = 60
"""Pieces of news that are kept."""


@dataclass(frozen=True)
class Best:
    """The lowest KLD of a model on the cheap rung at no more than `TARGET_BITS` bits per value."""

    kld: float
    bits: float
    label: str
    number: int


@dataclass(frozen=True)
class Point:
    """A measured configuration: cost in bits per value and KLD in nats."""

    bits: float
    kld: float


@dataclass
class Board:
    """Counts, rate, time left, best and front per model, what is spent, and what happened last."""

    total: int
    models: tuple[str, ...] = ()
    name: str = ""
    phase: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    per_model: Counter[str] = field(default_factory=Counter)
    best: dict[str, Best] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    spend: Mapping[str, Account] = field(default_factory=dict)
    feed: deque[News] = field(default_factory=lambda: deque(maxlen=KEPT))
    proposals: deque[News] = field(default_factory=lambda: deque(maxlen=KEPT))
    hear: Callable[[News], None] | None = None
    """Told of every piece of news."""
    began: float = field(default_factory=time.time)
    """When this run began, in seconds since the epoch."""

    _states: dict[int, str] = field(default_factory=dict)
    _verdicts: dict[int, str] = field(default_factory=dict)
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def restore(self, record: TrialRecord) -> None:
        """Take note of a trial without calling it news: an earlier run did it."""
        if record.verdict not in (None, "open"):
            self._verdicts[record.id] = str(record.verdict)
        self._count(record)

    def _count(self, record: TrialRecord) -> None:
        if self._states.get(record.number) in FINISHED:
            return
        self._states[record.number] = record.state
        if record.state not in FINISHED:
            return
        ended = record.finished_at.timestamp() if record.finished_at else time.time()
        if ended >= self.began:
            self._ends.append(ended)
        self.outcomes[record.outcome or record.state] += 1
        self.per_model[record.spec.model] += 1
        self._rank(record)

    def put(self, record: TrialRecord) -> None:
        """Take note of a trial as it is now: proposed, or ended."""
        known = self._states.get(record.number)
        self._count(record)
        if known is None:
            self.tell(news.proposed(record))
        if record.state not in FINISHED or known in FINISHED:
            return
        best = self.best.get(record.spec.model)
        if record.state != "complete":
            self.tell(news.failed(record))
        elif best is not None and best.number == record.number:
            self.tell(news.is_best(record, best.kld, best.bits))

    def find(self, finding: Finding) -> None:
        """Take note of a finding; a new claim or a new status is news."""
        known = self.findings.get(finding.key)
        self.findings[finding.key] = finding
        if known is None or known.status != finding.status:
            self.tell(news.found(finding))

    def score(self, scored: PredictionRecord) -> None:
        """Take note of how a prediction stands; a new verdict is news."""
        if scored.verdict == "open" or self._verdicts.get(scored.trial_id) == scored.verdict:
            return
        self._verdicts[scored.trial_id] = scored.verdict
        self.tell(news.judged(scored))

    def tell(self, item: News) -> None:
        """Add a piece of news."""
        (self.proposals if item.kind == "proposal" else self.feed).append(item)
        if self.hear is not None:
            self.hear(item)

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
        return len(self._states) - self.done

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
        return [text for f in standing if model in f.models and (text := news.plateau(f.key))]

    def front(self, model: str) -> list[Point]:
        """The points that no other undercuts in both KLD and bits, by bits."""
        front: list[Point] = []
        for point in sorted(self.points.get(model, ()), key=lambda p: (p.bits, p.kld)):
            if not front or point.kld < front[-1].kld:
                front.append(point)
        return front

    def _rank(self, record: TrialRecord) -> None:
        metrics, spec = record.metrics, record.spec
        cheap = spec.protocol == "quality" and not spec.rung  # KLD compares within a rung only
        if record.state != "complete" or not cheap or not {"kld", "bits_per_value"} <= set(metrics):
            return
        kld, bits = metrics["kld"].value, metrics["bits_per_value"].value
        self.points.setdefault(spec.model, []).append(Point(bits, kld))
        known = self.best.get(spec.model)
        if bits <= TARGET_BITS and (known is None or kld < known.kld):
            self.best[spec.model] = Best(kld, bits, describe(record), record.number)
