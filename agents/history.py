"""What agents know of a campaign before they propose or analyse: its trials, findings and summaries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from swarm.agents.analysis import results
from swarm.agents.analysis.claims import by_token
from swarm.agents.analysis.results import ConfigResult, Place, Results, config_key
from swarm.memory.records import FindingRecord, SummaryRecord, TrialRecord

FINISHED = frozenset({"complete", "failed", "pruned", "quarantined"})
OWN_FAULT = frozenset({"nan", "oom", "timeout", "refused"})
"""Outcomes that a configuration has itself to blame for; others are the machine's."""


@dataclass(frozen=True)
class History:
    """What a proposal may know: all earlier trials in order, the late ones without their results.

    `records` are the trials 0 .. number-1 in order of number; those that the fixed lag hides (or that really run)
    have state `running` and no metrics, so that everybody knows the same, whichever worker finishes first.
    """

    records: tuple[TrialRecord, ...]
    lag: int = 0
    findings: tuple[FindingRecord, ...] = ()
    summaries: tuple[SummaryRecord, ...] = ()

    @classmethod
    def before(
        cls,
        number: int,
        records: Iterable[TrialRecord],
        lag: int,
        findings: Iterable[FindingRecord] = (),
        summaries: Iterable[SummaryRecord] = (),
    ) -> History:
        """What proposal `number` may know, with the results of its last `lag` predecessors hidden.

        Args:
            number: number of the proposal; later records are left out.
            records: trials of one campaign, in any order.
            lag: how many of the latest trials are taken as running; 0 hides nothing.
            findings: findings stored so far.
            summaries: summaries with their reviews.
        """
        known = sorted((r for r in records if r.number < number), key=lambda r: r.number)
        horizon = number - lag
        seen = (r if r.number < horizon and r.state in FINISHED else hide(r) for r in known)
        return cls(tuple(seen), lag, tuple(findings), tuple(summaries))

    @cached_property
    def _pooled(self) -> dict[tuple[str, str], dict[Place, ConfigResult]]:
        return {}

    def results(self, metric: str = "kld", protocol: str = "quality") -> dict[Place, ConfigResult]:
        """Completed trials of a protocol pooled by model and key of their configuration; not to be changed."""
        if (metric, protocol) not in self._pooled:
            self._pooled[metric, protocol] = results.pool(self.completed, metric, protocol)
        return self._pooled[metric, protocol]

    def at(self, number: int) -> History:
        """The history as it was before proposal `number`, under the same lag."""
        if not self.records or self.records[-1].number < number:
            return self  # all of it was known; what the lag hid stays hidden
        known = History.before(number, self.records, self.lag)
        return replace(self, records=known.records)

    @cached_property
    def edited(self) -> dict[Place, ConfigResult]:
        """The KLD of quality trials on edited weights, likewise; these trials count for nothing else."""
        return results.pool(r for r in self.records if r.state == "complete" and not r.outdated and r.spec.edits)

    @cached_property
    def measured(self) -> Results:
        """What was measured on the weights as they are and on edited ones, named as claims name it."""
        return by_token({**self.results(), **self.edited})

    @cached_property
    def completed(self) -> tuple[TrialRecord, ...]:
        """Trials on unedited weights with a visible measurement by the present versions, in order."""
        return tuple(r for r in self.records if r.state == "complete" and not (r.outdated or r.spec.edits))

    @cached_property
    def failed(self) -> tuple[TrialRecord, ...]:
        """Trials on unedited weights that visibly ended without a measurement by the present versions, in order."""
        return tuple(r for r in self.records if r.state == "failed" and not (r.outdated or r.spec.edits))

    @cached_property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of all earlier trials, running ones included."""
        return frozenset(r.fingerprint for r in self.records)

    def select(self, *, model: str | None = None, protocol: str | None = None) -> tuple[TrialRecord, ...]:
        """The completed trials of a model and a protocol; None means any."""
        return tuple(r for r in self.completed if model in (None, r.spec.model) and protocol in (None, r.spec.protocol))

    def is_taught(self, record: TrialRecord) -> bool:
        """Whether a trial's prediction carries a result over from another model, as the view `agent_credit` counts it.

        It refers to another model's trial, or to the ratio of two configurations that had both been measured on
        another model before.
        """
        wanted_id = record.prediction.reference if record.prediction is not None else None
        reference = next((r for r in self.completed if r.id == wanted_id), None)
        if reference is None:
            return False
        if reference.spec.model != record.spec.model:
            return True
        wanted = {config_key(record.spec), config_key(reference.spec)}
        known: dict[str, set[str]] = {}
        for other in self.completed:
            if other.id < record.id and other.spec.model != record.spec.model:
                known.setdefault(other.spec.model, set()).add(config_key(other.spec))
        return len(wanted) == 2 and any(wanted <= keys for keys in known.values())


def hide(record: TrialRecord) -> TrialRecord:
    """The record as it looked before its result came in."""
    blank: dict[str, object] = {
        "state": "running",
        "outcome": "",
        "metrics": {},
        "arrays": {},
        "verdict": None,
        "seconds": 0.0,
    }
    return record.model_copy(update=blank)
