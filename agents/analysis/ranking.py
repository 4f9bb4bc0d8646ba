"""Which findings people should read first: by certainty and size of the effect. Knows findings only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import log

from swarm.memory.records import Effect, FindingRecord

STATUS = {"confirmed": 0, "hypothesis": 1, "refuted": 2}
KIND = {"contrast": 0, "transfer": 1, "failure": 2, "sensitivity": 3, "plateau": 4}
ENOUGH = 5.0
"""Effects from here on (a factor of about 150) count as equally large."""


def weight(effect: Effect | None) -> float:
    """How far the end of the interval that is nearest to no effect is away from it; 0 when no effect is included.

    Ratios count on the logarithmic scale. So a small effect that is certain and a large one that is not weigh little.
    """
    if effect is None:
        return 0.0
    ends = (effect.low, effect.high)
    if effect.unit == "ratio":
        ends = tuple(log(end) if end > 0 else -ENOUGH for end in ends)  # type: ignore[assignment]
    near = 0.0 if ends[0] <= 0 <= ends[1] else min(abs(ends[0]), abs(ends[1]))
    return min(near, ENOUGH)


def ranked(findings: Iterable[FindingRecord]) -> list[FindingRecord]:
    """Confirmed findings before hypotheses before refuted ones, and within them by weight; plateaus come last."""
    return sorted(findings, key=_place)


def _place(record: FindingRecord) -> tuple[int, bool, float, int, int]:
    finding = record.finding
    is_plateau = finding.kind == "plateau"
    return STATUS[finding.status], is_plateau, -weight(finding.effect), KIND[finding.kind], record.id


def mixed(findings: Iterable[FindingRecord], most: int, of_a_kind: int) -> list[FindingRecord]:
    """The first of the ranked findings, at most so many of each kind, so that no kind crowds out the others."""
    seen: Counter[str] = Counter()
    chosen: list[FindingRecord] = []
    for record in ranked(findings):
        seen[record.finding.kind] += 1
        if seen[record.finding.kind] <= of_a_kind and len(chosen) < most:
            chosen.append(record)
    return chosen
