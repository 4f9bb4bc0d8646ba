"""Who moves the front gets more turns, whoever it is; what is read first is what is large and certain."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from swarm.agents.analysis.judge import mixed, ranked, weight
from swarm.agents.generation import bandit
from swarm.agents.settings import AgentSettings
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Effect, Finding, FindingRecord, Proposal

GUEST = "llm:proposer"


def turns(make_lab, *, good: str, widths=(2, 3, 4, 5, 6, 8)) -> dict[str, float]:
    """Shares of first turns when one of two proposers always moves the front and the other repeats what is known."""
    lab = make_lab(noise=0.0)
    bad = next(name for name in (GUEST, "sampler") if name != good)
    records = []
    for bits in widths:
        spec = QuantSpec(method="affine", bits=bits, group_size=64)
        for name, sinks in ((good, 0), (bad, 0)):
            trial = TrialSpec(model="alpha", kv=KVSpec(key=spec, value=spec, sink_tokens=sinks))
            records.append(lab.run(len(records), Proposal(spec=trial, proposer=name)))
    rng = np.random.default_rng(0)
    context = SimpleNamespace(history=SimpleNamespace(records=records), settings=AgentSettings(), rng=rng)
    first = Counter(bandit.draw([GUEST, "sampler"], context)[0] for _ in range(400))  # type: ignore[arg-type]
    return {name: count / 400 for name, count in first.items()}


@pytest.mark.parametrize("good", [GUEST, "sampler"])
def test_turns_follow_measured_credit(make_lab, good) -> None:
    assert turns(make_lab, good=good)[good] > 0.8


def test_nobody_is_shut_out_for_good(make_lab) -> None:
    assert turns(make_lab, good="sampler", widths=(2, 3)).get(GUEST, 0.0) > 0


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
