"""Which flags to start an engine with: per model the quickest within the limit, beside the engine as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from swarm.agents.analysis import engine_speed
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings

MAX_ROWS = 6
"""Choices of flags of a front that are shown."""
SHOWN = ("decode_rate", "prefill_rate", "memory", "kld_upper")


def advice(models: Iterable[str], history: History, settings: AgentSettings) -> list[str]:
    """One line per model."""
    return [line for model in models for line in _advice(model, history, settings)]


def _advice(model: str, history: History, settings: AgentSettings) -> Iterator[str]:
    found = history.select(model=model, protocol=engine_speed.PROTOCOL)
    best = engine_speed.best(found, settings)
    if not best:
        return
    first, plain = f"trial:{best[0].id}", next((r for r in best[1:] if engine_speed.is_plain(r)), None)
    beside = f", without flags {{trial:{plain.id}:decode_rate}} ({{trial:{plain.id}}})" if plain else ""
    bound = (
        f"The upper limit of its KLD is {{{first}:kld_upper}}."
        if "kld_upper" in best[0].metrics
        else ("The engine tells no probabilities, so nothing is known of its quality.")
    )
    doubt = ""
    if engine_speed.is_plain(best[0]):
        doubt = " No flags that were tried are surely quicker than the engine without any."
    elif plain is not None and not engine_speed.is_quicker(found, best[0].spec.label, plain.spec.label):
        doubt = " That a request is quicker than without flags is not sure."
    yield (
        f"- On **{{{first}:model}}** start `{{{first}:label}}`. It generates {{{first}:decode_rate}} tokens per second"
        f"{beside} at {{{first}:context}} tokens ({{{first}}}).{doubt} {bound}"
    )


def fronts(models: Iterable[str], history: History, settings: AgentSettings) -> list[str]:
    """What nothing beats in decode rate, prefill rate and memory, as the lines of one table."""
    rows = []
    for model in models:
        found = history.select(model=model, protocol=engine_speed.PROTOCOL)
        for record in engine_speed.front(found, settings)[:MAX_ROWS]:
            trial = f"trial:{record.id}"
            cells = [f"{{{trial}:{name}}}" if name in record.metrics else "-" for name in SHOWN]
            rows.append(f"| {{{trial}:model}} | {' | '.join(cells)} | `{{{trial}:label}}` | {{{trial}}} |")
    head = "| model | decode tok/s | prefill tok/s | memory, bytes | KLD, upper limit | flags | measured by |"
    return [head, "|---|---|---|---|---|---|---|", *rows] if rows else []
