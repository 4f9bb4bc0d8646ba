"""What is read first is what is large and certain."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.agents.analysis.judge import mixed, ranked, weight
from swarm.memory.records import Effect, Finding, FindingRecord


def found(identity: int, value: float, low: float, high: float, status="confirmed", kind="contrast") -> FindingRecord:
    effect = Effect(name="x", value=value, low=low, high=high, unit="ratio")
    finding = Finding(
        kind=kind,
        key=f"{identity}",
        statement="x",
        models=("m",),
        effect=effect,
        evidence=(1,),
        status=status,
        author="a",
    )
    return FindingRecord(id=identity, campaign_id=1, finding=finding)


def test_findings_are_ranked_by_status_certainty_and_size() -> None:
    vague, sure, large = found(1, 0.1, 0.01, 0.99), found(2, 0.5, 0.45, 0.55), found(3, 0.1, 0.05, 0.2)
    guess, gone = found(4, 0.01, 0.005, 0.02, "hypothesis"), found(5, 0.01, 0.005, 0.02, "refuted")
    standing = found(6, 0.01, 0.005, 0.02, "confirmed", "plateau")
    order = [gone, guess, vague, standing, sure, large]
    assert [record.id for record in ranked(order)] == [3, 2, 1, 6, 4, 5]
    assert weight(None) == 0
    assert weight(found(1, 1.0, 0.8, 1.2).finding.effect) == 0
    assert weight(found(1, 2.0, 1.5, 3.0).finding.effect) == pytest.approx(np.log(1.5))


def test_no_kind_crowds_out_the_others() -> None:
    many = [found(n, 0.01, 0.005, 0.02, kind="transfer") for n in range(30)]
    few = [found(100 + n, 0.5, 0.4, 0.6) for n in range(2)]
    assert [r.id for r in mixed([*many, *few], 5, 3)] == [0, 1, 2, 100, 101]
