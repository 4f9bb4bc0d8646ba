"""The page of a recommendation: what to use for a model within a limit, the runner-up, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError, UsageError
from swarm.orchestrator.pages.blocks import (
    Block,
    Cell,
    Code,
    Columns,
    Facts,
    Interval,
    Num,
    Page,
    PagePart,
    Paragraph,
    Table,
)
from swarm.orchestrator.pages.entities import trials
from swarm.orchestrator.views.recommendation import cost_text, origin_text, recommendation, rival_text

if TYPE_CHECKING:
    from swarm.agents.analysis.recommendation import IntervalEstimate, Measure, Recommendation
    from swarm.memory.store import Store

FIELDS = ("bits", "memory", "context", "tolerance")
"""What a form asks for beside the model."""
MAX_TRIALS = 20_000
"""Trials in a store above which the page sends people to the command, which may take longer."""


def page(store: Store, model: str, given: Mapping[str, str]) -> Page:
    """The page for a model and the fields of the form; without a model it only says what to do.

    Args:
        store: where the results are.
        model: its name.
        given: the fields as they were typed.
    """
    if not model:
        text = "Choose a model and say what the cache may cost: bits per value, or memory and a context."
        return _page([Paragraph(text)])
    try:
        numbers = {name: _number(name, given.get(name, "")) for name in FIELDS}
        counted = sum(sum(store.trials.count(campaign.id).values()) for campaign in store.campaigns.list())
        if counted > MAX_TRIALS:
            raise UsageError(f"this store has {counted:,} trials.", "Ask with `swarm recommend`, which may wait.")
        context = numbers["context"]
        found = recommendation(
            store,
            model,
            bits=numbers["bits"],
            memory=numbers["memory"],
            context=None if context is None else int(context),
            tolerance=numbers["tolerance"],
        )
    except SwarmError as error:
        return _page([Paragraph(str(error), "warn")])
    return _page(_answer(found), *_parts(found), title=f"What to use for {found.model}")


def _page(blocks: list[Block], *parts: PagePart, title: str = "What to use") -> Page:
    return Page(title, [PagePart("answer", "Recommendation", blocks), *parts])


def _number(name: str, text: str) -> float | None:
    """What was typed as a number; contexts also as 32K.

    Raises:
        UsageError: it is none.
    """
    from swarm.experiments.sizing.units import parse_gigabytes, parse_tokens

    text = text.strip()
    if not text:
        return None
    if name == "context":
        return parse_tokens(text)
    if name == "memory":
        return parse_gigabytes(text)
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{name} {text[:40]!r} is no number.", "Give a number such as 4.5.") from error


def _answer(found: Recommendation) -> list[Block]:
    facts: dict[str, Cell] = {
        "Configuration": Code(found.choice.configuration),
        "In words": found.choice.words,
        "Costs": cost_text(found.choice),
        "Where the room comes from": found.limits.note,
        "Expected KLD, 90% interval": _interval(found.choice.loss, "nat"),
        "Where it comes from": origin_text(found),
        "Trials": trials(found.choice.trials) if found.choice.trials else None,
        "Runner-up": Code(found.runner_up.configuration) if found.runner_up else None,
        "What it would cost": rival_text(found),
    }
    return [Facts(facts)]


def _parts(found: Recommendation) -> list[PagePart]:
    measures: Columns = {
        "Measure": lambda one: one.name,
        Num("Value, 90% interval"): _value,
        "Trials": lambda one: trials(one.trials) if one.trials else None,
    }
    wanted: Columns = {
        "Configuration": lambda one: Code(one.configuration),
        "Text windows": lambda one: f"set {one.spec.replicate}",
        "Why": lambda one: one.why,
    }
    parts = []
    told = [*found.measures, *found.times]
    if told:
        parts.append(PagePart("measures", "Also measured", [Table.of("Of this configuration", told, measures)]))
    if found.untested:
        parts.append(PagePart("untested", "Not tested", [Paragraph("; ".join(found.untested) + ".")]))
    if found.decisive:
        tables = [Table.of("The first decides most", found.decisive, wanted)]
        parts.append(PagePart("decisive", "Trials that would decide most", tables))
    return parts


def _value(measure: Measure) -> Interval:
    return _interval(measure.value, measure.unit)


def _interval(found: IntervalEstimate, unit: str) -> Interval:
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    return Interval(found.value, low, high, unit)
