"""Who moves the front gets more turns, whoever it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from swarm.agents.generation import bandit
from swarm.agents.settings import AgentSettings
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Proposal

ROLE = "llm:proposer"


def turns(make_lab, *, good: str, widths=(2, 3, 4, 5, 6, 8)) -> dict[str, float]:
    """Shares of first turns when one of two proposers always moves the front and the other repeats what is known."""
    lab = make_lab(noise=0.0)
    bad = next(name for name in (ROLE, "sampler") if name != good)
    records = []
    for bits in widths:
        spec = QuantSpec(method="affine", bits=bits, group_size=64)
        for name, sinks in ((good, 0), (bad, 0)):
            trial = TrialSpec(model="alpha", kv=KVSpec(key=spec, value=spec, sink_tokens=sinks))
            records.append(lab.run(len(records), Proposal(spec=trial, proposer=name)))
    rng, rates = np.random.default_rng(0), bandit.hit_rates(records, AgentSettings())
    first = Counter(bandit.order([ROLE, "sampler"], rates, rng)[0] for _ in range(400))
    return {name: count / 400 for name, count in first.items()}


@pytest.mark.parametrize("good", [ROLE, "sampler"])
def test_turns_follow_measured_credit(make_lab, good) -> None:
    assert turns(make_lab, good=good)[good] > 0.8


def test_nobody_is_shut_out_for_good(make_lab) -> None:
    assert turns(make_lab, good="sampler", widths=(2, 3)).get(ROLE, 0.0) > 0
