"""The state of a running campaign as people want to see it. Knows records; knows no terminal and no store."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from swarm.memory.records import Finding, TrialRecord

RECENT = 40
TARGET_BITS = 4.6
"""Bits per value under which the best configuration of a model is shown."""


@dataclass(frozen=True)
class Best:
    """The lowest KLD of a model on the cheap rung at no more than `TARGET_BITS` bits per value."""

    kld: float
    bits: float
    label: str
    number: int


@dataclass
class Board:
    """Counts, rate, time left, the best per model, and what happened last."""

    total: int
    done: int = 0
    models: tuple[str, ...] = ()
    outcomes: Counter[str] = field(default_factory=Counter)
    per_model: Counter[str] = field(default_factory=Counter)
    best: dict[str, Best] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    feed: deque[str] = field(default_factory=lambda: deque(maxlen=6))
    phase: str = ""
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _started: float = field(default_factory=time.monotonic)

    def restore(self, record: TrialRecord) -> None:
        """Count a trial that an earlier run finished."""
        self.done += 1
        self.outcomes[record.outcome or record.state] += 1
        self.per_model[record.spec.model] += 1
        self._rank(record)

    def finish(self, record: TrialRecord) -> bool:
        """Count a trial that ended now; whether it is the best of its model so far."""
        self.restore(record)
        self._ends.append(time.monotonic())
        return self.best.get(record.spec.model, None) is not None and (
            self.best[record.spec.model].number == record.number
        )

    def find(self, finding: Finding) -> bool:
        """Note a finding; whether its claim or its status is new."""
        known = self.findings.get(finding.key)
        self.findings[finding.key] = finding
        return known is None or known.status != finding.status

    @property
    def failed(self) -> int:
        """Trials that ended without a measurement."""
        return self.done - self.outcomes["ok"]

    @property
    def rate(self) -> float | None:
        """Trials per second over the last ones; None before there are any."""
        if len(self._ends) < 2 or self._ends[-1] <= self._ends[0]:
            return None
        return (len(self._ends) - 1) / (self._ends[-1] - self._ends[0])

    @property
    def eta(self) -> float | None:
        """Seconds left at that rate."""
        rate = self.rate
        return (self.total - self.done) / rate if rate else None

    @property
    def elapsed(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._started

    def _rank(self, record: TrialRecord) -> None:
        metrics, spec = record.metrics, record.spec
        cheap = spec.protocol == "quality" and not spec.rung  # KLD compares within a rung only
        if record.state != "complete" or not cheap or "kld" not in metrics:
            return
        kld, bits = metrics["kld"].value, metrics["bits_per_value"].value
        known = self.best.get(record.spec.model)
        if bits <= TARGET_BITS and (known is None or kld < known.kld):
            self.best[record.spec.model] = Best(kld, bits, describe(record), record.number)


def describe(record: TrialRecord) -> str:
    """A configuration in a few words."""
    layers = record.spec.layers
    where = "" if layers is None else f" layers {layers[0]}-{layers[-1]}"
    return record.spec.kv.label + where
