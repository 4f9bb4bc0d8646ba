"""Failures: methods that fail or collapse on a model more often than the other methods there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from swarm.agents.analysis import statistics
from swarm.agents.analysis.base import Analyst
from swarm.agents.history import OWN_FAULT, History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Effect, Finding, TrialRecord

COLLAPSE_KLD = 1.0
"""KLD in nats from which the model's predictions are lost."""

MIN_TRIALS = 3
MAX_EVIDENCE = 24


class FailureAnalyst(Analyst):
    """Fisher's exact test of each method and bit width against the rest, at a family-wise error of 5% (Holm).

    A trial counts as failed when it ended by its own fault (NaN, out of memory, time) or when its KLD is above one
    nat beyond its error. Only quality trials that quantize all layers count.
    """

    name = "failure"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """Groups of trials that fail more often than the rest."""
        tested = [entry for model in infos for entry in self._of_model(model, history)]
        kept = statistics.holm([p for p, _ in tested])
        return [finding for (_, finding), keep in zip(tested, kept, strict=True) if keep]

    def _of_model(self, model: str, history: History) -> Iterator[tuple[float, Finding]]:
        trials = [r for r in history.records if r.spec.model == model and not r.outdated and _counts(r)]
        bad = {r.id for r in trials if _has_failed(r)}
        groups: dict[tuple[str, str, int | None], list[TrialRecord]] = defaultdict(list)
        for trial in trials:
            for side, spec in (("keys", trial.spec.kv.key), ("values", trial.spec.kv.value)):
                if spec.method != "none":  # 16 bit fails through the other side only
                    groups[side, spec.method, spec.bits].append(trial)
        for (side, method, bits), members in sorted(groups.items(), key=str):
            hits = sum(r.id in bad for r in members)
            if len(members) < MIN_TRIALS or len(members) == len(trials) or not hits:
                continue
            p = statistics.fisher(hits, len(members), len(bad), len(trials))
            yield p, self._finding(model, f"{side} in {bits}-bit {method}", members, bad)

    def _finding(self, model: str, group: str, members: list[TrialRecord], bad: set[int]) -> Finding:
        hits = sum(r.id in bad for r in members)
        low, high = statistics.proportion(hits, len(members))
        text = f"On {model} {group} fail or collapse (KLD above {COLLAPSE_KLD:g} nat) more often than the rest."
        effect = Effect(name="failure rate", value=hits / len(members), low=low, high=high, unit="share")
        ids = (r.id for r in members[:MAX_EVIDENCE])
        return self.finding("failure", f"failure:{group.replace(' ', '-')}", (model,), text, effect, ids)


def _has_failed(record: TrialRecord) -> bool:
    """Whether the trial says that its configuration does not work."""
    if record.state == "failed":
        return record.outcome in OWN_FAULT
    metric = record.metrics.get("kld")
    return metric is not None and metric.value - 2 * (metric.stderr or 0.0) > COLLAPSE_KLD


def _counts(record: TrialRecord) -> bool:
    spec = record.spec
    finished = record.state == "complete" or (record.state == "failed" and record.outcome in OWN_FAULT)
    return finished and spec.protocol == "quality" and spec.layers is None
