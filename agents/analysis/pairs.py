"""Controlled comparisons: pairs of configurations that differ in one factor and cost about the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from swarm.agents.analysis.results import CONFIGURATION_FIELDS, ConfigResult
from swarm.experiments.spec import TrialSpec

SIDES = ("key", "value")
MAX_BITS_APART = 0.3
"""Bits per value within which a change counts as free; dearer changes are expected to help."""


def costs_the_same(a: float | None, b: float | None) -> bool:
    """Whether results of so many bits per value (None: unknown) can be compared without a word on their cost."""
    return a is not None and b is not None and abs(a - b) <= MAX_BITS_APART


@dataclass(frozen=True)
class ControlledPair:
    """Two results of one model that differ in `factor` alone: `a` has level `low`, `b` has level `high`."""

    factor: str
    low: str
    high: str
    a: ConfigResult
    b: ConfigResult


def controlled(found: Sequence[ConfigResult]) -> Iterator[ControlledPair]:
    """All pairs among the results (of one model) of about the same cost, oriented by their levels."""
    groups: dict[tuple[str, str], list[tuple[str, ConfigResult]]] = defaultdict(list)
    for result in found:
        for factor, level, rest in _factors(result.spec):
            groups[factor, rest].append((level, result))
    for (factor, _), members in groups.items():
        for (low, a), (high, b) in combinations(sorted(members, key=lambda m: m[0]), 2):
            if factor.startswith("method") and low.split()[0] == high.split()[0]:
                continue  # the field that differs tells it
            if low != high and costs_the_same(a.bits, b.bits):
                yield ControlledPair(factor, low, high, a, b)


def _factors(spec: TrialSpec) -> Iterator[tuple[str, str, str]]:
    """Each factor with its level and, as text, everything else: equal texts differ in the factor only."""
    data = spec.model_dump(mode="json", include=CONFIGURATION_FIELDS)
    kv = data["kv"]
    for side in SIDES:
        half = kv[side]
        for field in half:
            if field != "method":
                yield f"{field.replace('_', ' ')} of the {side}s", str(half[field]), _text(data, side, {field: None})
        # Methods bring their own codes and groups: as they come, with the same width.
        rest = {name: None for name in half if name != "bits"}
        yield f"method of the {side}s", _level(half), _text(data, side, rest)
    for field in kv:
        if field not in (*SIDES, "layers"):
            name = "bits of some layers" if field == "overrides" else field.replace("_", " ")
            yield name, _said(spec, field), repr({**data, "kv": {**kv, field: None}})
    both = [getattr(spec.kv, side).label for side in SIDES]
    swapped = {"key": sorted(both), "value": None}
    yield "keys and values swapped", " and ".join(both), repr({**data, "kv": {**kv, **swapped}})


def _said(spec: TrialSpec, field: str) -> str:
    """A field of the cache's specification in words."""
    if field == "overrides":
        return ", ".join(override.label for override in spec.kv.overrides) or "the same everywhere"
    return str(getattr(spec.kv, field))


def _level(half: dict[str, Any]) -> str:
    extras = [str(half[name]) for name in ("axis", "rotation", "scaling")]
    return " ".join([half["method"], *(v for v in extras if v not in ("token", "none", "fixed", "None"))])


def _text(data: dict[str, Any], side: str, blank: dict[str, None]) -> str:
    kv = data["kv"]
    return repr({**data, "kv": {**kv, side: {**kv[side], **blank}}})
