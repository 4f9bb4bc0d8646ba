"""What to use: per model one configuration and a smaller one, each in words, and the fronts that they are from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.memory.front import pareto_front

T = TypeVar("T")

BITS, FEW_BITS = 4.6, 3.6
"""Bits per value of a cache of 4 and of 3 bits, metadata included."""

LONG = ("context", "retrieval", "generation")
"""Protocols that show how a cache does at long contexts and in answers."""

MAX_POINTS = 4
"""Configurations of a front that are shown."""


def advice(models: Iterable[str], history: History, settings: AgentSettings) -> list[str]:
    """Two lines per model: what to use, and what to use where memory is short."""
    return [line for model in models for line in _advice(model, history, settings)]


def _advice(model: str, history: History, settings: AgentSettings) -> Iterator[str]:
    found = [r for r in _measured(model, history) if not r.spec.rung and r.is_quantized and r.spec.layers is None]
    chosen = recommended(found, settings.max_kld)
    if chosen is None:
        return
    trial = f"trial:{chosen.records[0].id}"
    prefilled = next((r for r in _measured(model, history) if r.spec.rung and r.spec.kv == chosen.spec.kv), None)
    prefill = "is not measured yet"
    if prefilled is not None:
        prefill = f"has KLD {{trial:{prefilled.records[0].id}:kld}} ({{trial:{prefilled.records[0].id}}})"
    yield (
        f"- On **{{{trial}:model}}** use `{{{trial}:label}}`. {_measure(chosen)} {_risk(chosen)}"
        f"The same with a quantized prefill {prefill}."
    )
    few = recommended([r for r in found if (r.bits or 0.0) <= FEW_BITS], settings.max_kld)
    if few is None:
        yield f"- On **{{{trial}:model}}** nothing of about three bits per value keeps the KLD under its limit so far."
    elif few is not chosen:
        trial = f"trial:{few.records[0].id}"
        yield f"- On **{{{trial}:model}}** where memory is short, use `{{{trial}:label}}`. {_measure(few)}"


def recommended(found: Sequence[ConfigResult], max_kld: float) -> ConfigResult | None:
    """The result with the lowest KLD of those that take no more bits than a 4-bit cache; none beyond the limit."""
    fit = [r for r in found if (r.bits or 0.0) <= BITS and r.interval[1] <= max_kld]
    return min(fit, key=lambda r: (r.level, r.key), default=None)


def _measure(result: ConfigResult) -> str:
    trial = f"trial:{result.records[0].id}"
    return f"{{{trial}:words}} It has KLD {{{trial}:kld}} at {{{trial}:bits_per_value}} bits per value ({{{trial}}})."


def _risk(result: ConfigResult) -> str:
    """How often, and how far, single tokens go astray, where it was measured."""
    record = result.records[0]
    if not {"same_top1", "kld_max"} <= record.metrics.keys():
        return ""
    trial = f"trial:{record.id}"
    return (
        f"The likeliest token is that of the 16-bit run at a share of {{{trial}:same_top1}} of all positions, "
        f"and the KLD of a position reaches {{{trial}:kld_max}}. "
    )


def untested(models: Iterable[str], history: History) -> list[str]:
    """What nobody has measured yet, as lines."""
    lines = []
    for model in models:
        found = history.select(model=model, protocol="quality")
        if found and not any(history.select(model=model, protocol=name) for name in LONG):
            trial = f"trial:{max(found, key=lambda record: record.spec.context).id}"
            what = f"contexts beyond {{{trial}:context}} tokens, and answers"
            lines.append(f"- Not measured on {{{trial}:model}}: {what} ({{{trial}}}).")
    return lines


def fronts(models: Iterable[str], history: History) -> list[str]:
    """The Pareto front of the highest rung that each model has, as the lines of one table."""
    rows = [row for model in models for row in _front(model, history)]
    head = ["| model | bits/value | KLD | configuration | in words | measured by |", "|---|---|---|---|---|---|"]
    return [*head, *rows] if rows else []


def _front(model: str, history: History) -> Iterator[str]:
    found = _measured(model, history)
    rung = max((result.spec.rung for result in found), default=0)
    found = [result for result in found if result.spec.rung == rung]
    front = pareto_front([(result.level, result.bits or 0.0) for result in found])
    for index in spread(front, MAX_POINTS):
        trial = f"trial:{found[index].records[0].id}"
        yield (
            f"| {{{trial}:model}} | {{{trial}:bits_per_value}} | {{{trial}:kld}} | `{{{trial}:label}}` "
            f"| {{{trial}:words}} | {{{trial}}}, {'full' if rung else 'cheap'} rung |"
        )


def _measured(model: str, history: History) -> list[ConfigResult]:
    pooled = results.pool(history.select(model=model, protocol="quality"))
    return [result for result in pooled.values() if result.bits is not None]


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many items, evenly, the first and the last included."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
