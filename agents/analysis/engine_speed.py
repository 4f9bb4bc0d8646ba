"""What a search among an engine's flags minimises: time per token at depth, time per prompt token, and memory.

All three are logarithms to base 2: one less is twice as fast, or half the memory. Only flags whose divergence from the
engine's own 16-bit run is surely below the limit are feasible; engines that tell no probabilities are bound by nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log2

from swarm.agents.settings import AgentSettings
from swarm.memory.front import Point, pareto_front
from swarm.memory.records import TrialRecord

PROTOCOL = "engine"
ANSWER_TOKENS = 128
"""Tokens of the answer in the request by whose seconds flags are ranked."""
WORSE, BETTER = 1.0, 2.0
"""The region whose volume counts, around the engine as it comes: twice as bad to four times as good."""
SIZE = (WORSE + BETTER) ** 3


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


def best(records: Iterable[TrialRecord], settings: AgentSettings) -> list[TrialRecord]:
    """Trials that measured a rate and keep to the limit, the quickest request first."""
    found = (r for r in records if objectives(r) is not None and is_feasible(r, settings))
    return sorted(found, key=request_seconds)


def front(records: Iterable[TrialRecord], settings: AgentSettings) -> list[TrialRecord]:
    """Those of `best` that no other equals or beats in decode rate, prefill rate and memory."""
    found = best(records, settings)
    kept = set(pareto_front([objectives(r) or () for r in found]))
    return [r for i, r in enumerate(found) if i in kept]


def frame(records: Iterable[TrialRecord], model: str) -> tuple[Point, float] | None:
    """Reference point and volume of the region around the engine as it comes; None while that is not measured."""
    plain = (r for r in records if r.spec.model == model and r.spec.engine is not None and not r.spec.engine.flags)
    for record in plain:
        point = objectives(record)
        if point is not None:
            return tuple(value + WORSE for value in point), SIZE
    return None
