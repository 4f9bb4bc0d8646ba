"""Judges by code alone: scores predictions, promotes, demotes and ranks findings, says what must be replicated.

A pure function of the history, so that a measurement that changes changes its findings with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import log

from swarm.agents.analysis import results
from swarm.agents.analysis.base import analyse
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim
from swarm.agents.analysis.results import ConfigResult, Results, config_key
from swarm.agents.analysis.statistics import ALPHA
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect, Finding, FindingRecord, FindingStatus, Prediction, Score, TrialRecord, Verdict

MAX_REPLICATES = 3
"""Replications after which a claim that still is not confirmed counts as refuted."""

NOT_REPLICATED = ("plateau", "failure")
"""Kinds about the search itself, which no other text windows could decide."""


def judge(
    found: Iterable[Finding], known: Iterable[Finding], history: History, infos: Mapping[str, ModelInfo]
) -> list[Finding]:
    """Findings with the status that the data gives them: what is `found` now, and what is `known` from before.

    Those that have lost their support come back as refuted. Discovery and confirmation are kept apart: a finding is
    confirmed by replications alone, that is by trials on text windows and seeds that nobody had looked at when the
    claim was made.
    """
    current = {finding.key: finding for finding in found}
    before = {finding.key: finding for finding in known}
    measured = history.measured
    fresh = tuple(r for r in history.records if r.spec.replicate > 0)
    again = analyse(replace(history, records=fresh, findings=()), infos) if fresh else []
    replicated = {finding.key: finding for finding in again}
    finished = (record for record in history.records if record.state == "complete")
    inconsistent = {record.id for record in finished if not results.is_consistent(record)}
    outdated = {record.id for record in history.records if record.outdated}
    judged = []
    for key, finding in (before | current).items():
        if key not in current and outdated & set(finding.evidence):
            continue  # it stays as it is until it is seen in trials of the present versions
        claim = Claim.parse(key)
        if claim is not None:
            now = _judge_claim(finding, claim, measured)
        else:
            now = finding.model_copy(update={"status": _status(finding, key in current, replicated.get(key))})
        evidence = {*now.evidence, *(before[key].evidence if key in before else ())}
        # What rests on a measurement that contradicts itself may be seen again, but is not confirmed by it.
        doubtful = now.status == "confirmed" and evidence & inconsistent
        judged.append(now.model_copy(update={"status": "hypothesis"}) if doubtful else now)
    return judged


def replications(findings: Iterable[Finding], history: History) -> Iterator[tuple[Finding, TrialSpec]]:
    """Trials that would help to decide open findings.

    Kinds with the fewest confirmed findings come first, in a kind the clearest effect for the fewest trials.
    """
    by_id = {record.id: record for record in history.records}
    present = {(r.spec.model, config_key(r.spec), r.spec.replicate) for r in history.records if not r.outdated}
    findings = list(findings)
    done = Counter(f.kind for f in findings if f.status == "confirmed")
    ordered = sorted(
        (f for f in findings if f.status == "hypothesis" and f.kind not in NOT_REPLICATED),
        key=lambda f: (done[f.kind], -_clarity(f) / (1 + len(f.evidence)), f.key),
    )
    for finding in ordered:
        specs = {(spec.model, config_key(spec)): spec for spec in _tested(finding, by_id)}
        for replicate in range(1, MAX_REPLICATES + 1):
            missing = [spec for place, spec in specs.items() if (*place, replicate) not in present]
            for spec in missing:
                seed = spec.seed + replicate - spec.replicate
                yield finding, spec.model_copy(update={"replicate": replicate, "seed": seed})
            if missing:
                break


def _tested(finding: Finding, by_id: Mapping[int, TrialRecord]) -> list[TrialSpec]:
    """The trials whose repetition decides: of a transfer only those on the target model."""
    claim = Claim.parse(finding.key)
    specs = [by_id[i].spec for i in finding.evidence if i in by_id]
    target_only = claim is not None and claim.relation == "transfer"
    return [spec for spec in specs if spec.model == finding.models[-1] or not target_only]


def _clarity(finding: Finding) -> float:
    """How many interval widths an effect is away from nothing."""
    effect = finding.effect
    if effect is None:
        return 0.0
    if effect.unit == "ratio" and effect.low > 0:
        width = log(effect.high) - log(effect.low)
        return abs(log(effect.value)) / max(width, 1e-9)
    return abs(effect.value) / max(effect.high - effect.low, 1e-9)


def _judge_claim(finding: Finding, claim: Claim, measured: Results) -> Finding:
    pooled = claim.estimate(measured)
    if pooled is None:
        return finding.model_copy(update={"status": "refuted"})
    used = [measured[place] for place in claim.needs]
    replicates = {r for result in used for r in result.replicates if r > 0}
    fresh = claim.estimate(measured, replicates)
    status: FindingStatus = "hypothesis"
    low, high = pooled.interval()
    # Causes are stated because captures suggest them, before trials do: only trials that speak against one refute it.
    unsupported = low >= 0 if claim.relation == "cause" else high >= 0
    least = 0.0
    if claim.relation == "intervention":
        least = -NEGLIGIBLE
        unsupported = pooled.mean > least
    if unsupported or (fresh is not None and fresh.mean > 0 and fresh.p < ALPHA):
        status = "refuted"
    elif fresh is not None and fresh.mean < least and fresh.below(0.0) < ALPHA:
        status = "confirmed"
    elif fresh is not None and len(replicates) >= MAX_REPLICATES:
        status = "refuted"
    size = claim.evaluate(measured)
    effect = finding.effect and size and size.model_copy(update={"name": finding.effect.name})
    ids = tuple(dict.fromkeys((*finding.evidence, *(i for result in used for i in result.ids))))
    return finding.model_copy(update={"status": status, "effect": effect, "evidence": ids})


def _status(finding: Finding, supported: bool, again: Finding | None) -> FindingStatus:
    if not supported:
        return "refuted"
    if again is None or again.effect is None or finding.effect is None:
        return "hypothesis"
    neutral = 1.0 if finding.effect.unit == "ratio" else 0.0
    same_side = (again.effect.value - neutral) * (finding.effect.value - neutral) > 0
    return "confirmed" if same_side else "refuted"


def score(record: TrialRecord, history: History) -> Score | None:
    """The score of a trial's registered prediction; None when it has none, `open` while it cannot be scored.

    Confirmed or refuted only when the whole interval lies on one side of the threshold, else inconclusive.
    """
    prediction = record.prediction
    if prediction is None:
        return None
    if record.state in ("waiting", "running"):
        return Score(verdict="open")
    found = _observed(record, prediction, history) if record.state == "complete" else None
    if found is None:
        return Score(verdict="inconclusive")
    observed, low, high = found
    if prediction.comparator == "<=":
        right, wrong = high <= prediction.threshold, low > prediction.threshold
    else:
        right, wrong = low >= prediction.threshold, high < prediction.threshold
    verdict: Verdict = "confirmed" if right else "refuted" if wrong else "inconclusive"
    return Score(verdict=verdict, observed=observed, low=low, high=high)


def _observed(record: TrialRecord, prediction: Prediction, history: History) -> tuple[float, float, float] | None:
    """Value, low and high of what the threshold bounds: the metric, or its ratio to the reference trial."""
    if record.outdated or prediction.metric not in record.metrics or not results.is_consistent(record):
        return None
    own = ConfigResult(prediction.metric, (record,))
    value = record.metrics[prediction.metric].value
    if prediction.reference is None:
        return value, *own.interval
    reference = next((r for r in history.completed if r.id == prediction.reference), None)
    if reference is None or prediction.metric not in reference.metrics or not results.is_consistent(reference):
        return None
    other = ConfigResult(prediction.metric, (reference,))
    ratio = results.compare(own, other)
    if ratio is not None:
        effect = results.ratio("", ratio)
        return effect.value, effect.low, effect.high
    (low, high), (base_low, base_high) = own.interval, other.interval
    if base_low <= 0:
        return None
    return value / reference.metrics[prediction.metric].value, low / base_high, high / base_low


STATUS_ORDER = {"confirmed": 0, "hypothesis": 1, "refuted": 2}
KIND_ORDER = {"cause": 0, "contrast": 1, "transfer": 2, "failure": 3, "sensitivity": 4, "plateau": 5}
MAX_WEIGHT = 5.0
"""Effects from here on (a factor of about 150) count as equally large."""


def weight(effect: Effect | None) -> float:
    """How far the end of the interval that is nearest to no effect is away from it; 0 when no effect is included.

    Ratios count on the logarithmic scale. So a small effect that is certain and a large one that is not weigh little.
    """
    if effect is None:
        return 0.0
    low, high = effect.low, effect.high
    if effect.unit == "ratio":
        low, high = (log(end) if end > 0 else -MAX_WEIGHT for end in (low, high))
    return 0.0 if low <= 0 <= high else min(abs(low), abs(high), MAX_WEIGHT)


def ranked(findings: Iterable[FindingRecord]) -> list[FindingRecord]:
    """Confirmed findings before hypotheses before refuted ones, and within them by weight; plateaus come last."""
    return sorted(findings, key=_place)


def _place(record: FindingRecord) -> tuple[int, bool, float, int, int]:
    finding = record.finding
    is_plateau = finding.kind == "plateau"
    return STATUS_ORDER[finding.status], is_plateau, -weight(finding.effect), KIND_ORDER[finding.kind], record.id


def mixed(findings: Iterable[FindingRecord], most: int, of_a_kind: int) -> list[FindingRecord]:
    """The first of the ranked findings, at most so many of each kind, so that no kind crowds out the others."""
    seen: Counter[str] = Counter()
    chosen: list[FindingRecord] = []
    for record in ranked(findings):
        seen[record.finding.kind] += 1
        if seen[record.finding.kind] <= of_a_kind and len(chosen) < most:
            chosen.append(record)
    return chosen
