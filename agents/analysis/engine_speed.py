"""What a search among an engine's flags minimises: time per token at depth, time per prompt token, and memory.

All three are logarithms to base 2: one less is twice as fast, or half the memory. Only flags whose divergence from the
engine's own 16-bit run is surely below the limit are feasible; engines that tell no probabilities are bound by nothing.

Clocks are noisy, and the quickest of many single measurements is mostly luck. So flags are ranked by an upper limit of
their seconds, and what was measured once is never the first choice. Flags are measured again because the first
measurement was quick: it is left out of their mean then, and counts for the noise alone. The engine as it comes is
measured again whatever it shows, so that all its measurements count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import log, log2, sqrt
from typing import TypeVar

import numpy as np

from swarm.agents.analysis.statistics import Estimate
from swarm.agents.settings import AgentSettings
from swarm.memory.front import Point, pareto_front
from swarm.memory.records import TrialRecord

T = TypeVar("T")

PROTOCOL = "engine"
ANSWER_TOKENS = 128
"""Tokens of the answer in the request by whose seconds flags are ranked."""
WORSE, BETTER = 1.0, 2.0
"""The region whose volume counts, around the engine as it comes: twice as bad to four times as good."""
SIZE = (WORSE + BETTER) ** 3
NOISE, NOISE_DF = 0.1, 2
"""Standard deviation of the logarithm of seconds that is assumed, and as how many degrees of freedom it counts."""
DOUBT = 0.1
"""Probability that true seconds are above the limit that flags are ranked by."""
LEVEL = 0.025
"""Of the test whether flags are quicker. A campaign looks often: about 5% of those that are not are called quicker."""


def objectives(record: TrialRecord) -> Point | None:
    """log2 of seconds per generated token, of seconds per prompt token, and of bytes of memory of a completed trial."""
    metrics = record.metrics
    if record.state != "complete" or not {"decode_rate", "prefill_rate", "memory"} <= metrics.keys():
        return None
    rates = (-log2(metrics[name].value) for name in ("decode_rate", "prefill_rate"))
    return (*rates, log2(max(metrics["memory"].value, 1.0)))


def excess(record: TrialRecord, settings: AgentSettings) -> dict[str, float]:
    """Nats by which the upper 95% limit of the divergence is above the limit; positive is infeasible."""
    upper = record.metrics.get("kld_upper")
    return {} if upper is None else {"kld": upper.value - settings.max_kld}


def is_feasible(record: TrialRecord, settings: AgentSettings) -> bool:
    """Whether the flags keep to the limit."""
    return all(over <= 0 for over in excess(record, settings).values())


def request_seconds(record: TrialRecord) -> float:
    """Seconds for a prompt as long as the trial's context and an answer: what one number says of both rates."""
    metrics = record.metrics
    return record.spec.context / metrics["prefill_rate"].value + ANSWER_TOKENS / metrics["decode_rate"].value


def estimates(seconds: Mapping[T, Sequence[float]], plain: T | None = None) -> dict[T, Estimate]:
    """Mean logarithm of the seconds of each choice, which was measured once or several times.

    All have the same noise: what choices that were measured several times say together, and what is assumed. `plain` is
    the engine as it comes; of others that were measured again, the first measurement is left out of the mean.
    """
    logs = {choice: np.log(measured) for choice, measured in seconds.items()}
    df = NOISE_DF + sum(len(x) - 1 for x in logs.values())
    squares = NOISE_DF * NOISE**2 + sum(float(((x - x.mean()) ** 2).sum()) for x in logs.values())
    found = {}
    for choice, x in logs.items():
        fair = x[_first_fair(len(x), is_plain=choice == plain) :]
        found[choice] = Estimate(float(fair.mean()), sqrt(squares / df / len(fair)), df, len(x))
    return found


def _first_fair(measured: int, *, is_plain: bool) -> int:
    """The place of the first of some measurements that was not the reason for the others."""
    return 0 if is_plain or measured < 2 else 1


def ranked(known: Mapping[T, Estimate]) -> list[T]:
    """Choices by the upper limit of their seconds, but first the best of those measured several times, if any."""
    order = sorted(known, key=lambda choice: _limit(known[choice]))
    leader = next((choice for choice in order if known[choice].n > 1), None)
    return order if leader is None else [leader, *(choice for choice in order if choice != leader)]


def _limit(estimate: Estimate) -> float:
    return estimate.interval(1 - 2 * DOUBT)[1]


def is_plain(record: TrialRecord) -> bool:
    """Whether a trial is of the engine as it comes."""
    return record.spec.engine is not None and not record.spec.engine.flags


def by_flags(records: Iterable[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """The trials that measured a rate, by the label of their engine and flags."""
    found: dict[str, list[TrialRecord]] = {}
    for record in records:
        if objectives(record) is not None:
            found.setdefault(record.spec.label, []).append(record)
    return found


def _estimated(groups: Mapping[str, Sequence[TrialRecord]]) -> dict[str, Estimate]:
    """Mean logarithm of `request_seconds`, on whatever rung and text, of all flags of a model by their label."""
    plain = next((label for label, found in groups.items() if is_plain(found[0])), None)
    return estimates(_seconds(groups), plain)


def _seconds(groups: Mapping[str, Sequence[TrialRecord]]) -> dict[str, list[float]]:
    return {label: [request_seconds(record) for record in found] for label, found in groups.items()}


def is_quicker(records: Iterable[TrialRecord], label: str, other: str) -> bool:
    """Whether flags are surely quicker than others of the same model, both measured several times (t test).

    The first measurement of both counts for the noise alone: it is a reason why they are compared.
    """
    known = estimates(_seconds(by_flags(records)))
    if min(known[label].n, known[other].n) < 2:
        return False
    return replace(known[label] - known[other], df=known[label].df).below(0.0) < LEVEL


def best(records: Iterable[TrialRecord], settings: AgentSettings) -> list[TrialRecord]:
    """For all flags of one model that kept to the limit whenever measured, a trial each, ranked as `ranked` says.

    Of several trials with the same flags it is the median, of two the slower.
    """
    groups = by_flags(records)
    return _best(groups, _estimated(groups), settings)


def _best(
    groups: Mapping[str, Sequence[TrialRecord]], known: Mapping[str, Estimate], settings: AgentSettings
) -> list[TrialRecord]:
    feasible = {label: known[label] for label, found in groups.items() if all(is_feasible(r, settings) for r in found)}
    return [sorted(groups[label], key=request_seconds)[len(groups[label]) // 2] for label in ranked(feasible)]


def front(records: Iterable[TrialRecord], settings: AgentSettings) -> list[TrialRecord]:
    """The first of `best`, and those whose flags no others equal or beat in decode rate, prefill rate and memory.

    What counts are means over the trials with the same flags, rates less the doubt that is left of a request.
    """
    groups = by_flags(records)
    known = _estimated(groups)
    found = _best(groups, known, settings)
    points = []
    for label in (record.spec.label for record in found):
        fair = groups[label][_first_fair(len(groups[label]), is_plain=is_plain(groups[label][0])) :]
        decode, prefill, memory = np.mean([objectives(r) or () for r in fair], axis=0).tolist()
        doubt = (_limit(known[label]) - known[label].mean) / log(2)
        points.append((decode + doubt, prefill + doubt, memory))
    kept = {0, *pareto_front(points)}
    return [record for i, record in enumerate(found) if i in kept]


def frame(records: Iterable[TrialRecord], model: str) -> tuple[Point, float] | None:
    """Reference point and volume of the region around the engine as it comes; None while that is not measured."""
    for record in (r for r in records if r.spec.model == model and is_plain(r)):
        point = objectives(record)
        if point is not None:
            return tuple(value + WORSE for value in point), SIZE
    return None
