"""Controlled comparisons: pairs of configurations that differ in one factor and cost about the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from swarm.agents.analysis.results import Cell, Configuration

SIDES = ("key", "value")
SIMILAR = 0.3
"""Bits per value within which a change counts as free; dearer changes are expected to help."""


@dataclass(frozen=True)
class Pair:
    """Two cells of one model that differ in `factor` alone: `a` has level `low`, `b` has level `high`."""

    factor: str
    low: str
    high: str
    a: Cell
    b: Cell


def controlled(cells: Sequence[Cell]) -> Iterator[Pair]:
    """All pairs among the cells (of one model) of about the same cost, oriented by their levels."""
    groups: dict[tuple[str, str], list[tuple[str, Cell]]] = defaultdict(list)
    for cell in cells:
        for factor, level, rest in _factors(cell.configuration):
            groups[factor, rest].append((level, cell))
    for (factor, _), members in groups.items():
        for (low, a), (high, b) in combinations(sorted(members, key=lambda m: m[0]), 2):
            if factor.startswith("method") and low.split()[0] == high.split()[0]:
                continue  # the field that differs tells it
            if low != high and a.bits is not None and b.bits is not None and abs(a.bits - b.bits) <= SIMILAR:
                yield Pair(factor, low, high, a, b)


def _factors(configuration: Configuration) -> Iterator[tuple[str, str, str]]:
    """Each factor with its level and, as text, everything else: equal texts differ in the factor only."""
    data = configuration.model_dump(mode="json")
    kv = data["kv"]
    for side in SIDES:
        spec = kv[side]
        for field in spec:
            if field != "method":
                yield f"{field.replace('_', ' ')} of the {side}s", str(spec[field]), _text(data, side, {field: None})
        # Methods bring their own codes and groups: as they come, with the same width.
        rest = {name: None for name in spec if name != "bits"}
        yield f"method of the {side}s", _level(configuration, side), _text(data, side, rest)
    for field in kv:
        if field not in SIDES:
            yield _name(field), _said(configuration, field), repr({**data, "kv": {**kv, field: None}})
    both = [getattr(configuration.kv, side).label for side in SIDES]
    ends = {"key": sorted(both), "value": None}
    yield "keys and values swapped", " and ".join(both), repr({**data, "kv": {**kv, **ends}})


def _name(field: str) -> str:
    return "bits of some layers" if field == "overrides" else field.replace("_", " ")


def _said(configuration: Configuration, field: str) -> str:
    """A field of the cache's specification in words."""
    value = getattr(configuration.kv, field)
    if field == "overrides":
        return ", ".join(override.label for override in value) or "the same everywhere"
    return str(value)


def _level(configuration: Configuration, side: str) -> str:
    spec = getattr(configuration.kv, side)
    extras = [str(v) for v in (spec.axis, spec.rotation, spec.scaling) if v not in ("token", "none", "fixed", None)]
    return " ".join([spec.method, *extras])


def _text(data: dict[str, Any], side: str, blank: dict[str, None]) -> str:
    kv = data["kv"]
    return repr({**data, "kv": {**kv, side: {**kv[side], **blank}}})
