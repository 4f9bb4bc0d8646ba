"""Causes: what captures show is tested by editing it away, and an effect that stays refutes it."""

from __future__ import annotations

from collections import Counter

import pytest

from swarm.agents.analysis import causes, judge
from swarm.agents.analysis.analysts.cause import CauseAnalyst
from swarm.agents.analysis.claims import Claim
from swarm.agents.history import History
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal

PLAIN, TURNED = (KVSpec.parse(f"K affine4/g64{turn} V affine4/g64") for turn in ("", "+hadamard"))


def turning_helps(spec, left: float = 0.0) -> float:
    """Rotated keys are better; of that, the share `left` stays when the keys are made even."""
    gain = -0.8 * (spec.kv.key.rotation == "hadamard")
    return gain * (left if spec.edits else 1.0)


def measured(lab, replicates=(0,)) -> History:
    specs = [
        TrialSpec(model="alpha", kv=kv, edits=edits, replicate=replicate, seed=replicate)
        for replicate in replicates
        for edits in ("", "keys even")
        for kv in (PLAIN, TURNED)
    ]
    return History(tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)))


def judged(history, infos):
    named = {info.name: info for info in infos}
    (found,) = CauseAnalyst().analyse(history, named)
    (status,) = (f for f in judge.judge([found], [], history, named) if f.kind == "cause")
    return found, status


@pytest.mark.parametrize("seed", range(5))
def test_an_effect_that_goes_with_its_cause_confirms_it_on_replications_only(make_lab, infos, seed):
    lab = make_lab(seed=seed, law=turning_helps)
    found, first = judged(measured(lab), infos)
    assert Claim.parse(found.key).relation == "cause"
    assert (found.models, first.status) == (("alpha",), "hypothesis")  # however clear it is
    _, later = judged(measured(lab, (0, 1, 2)), infos)
    assert later.status == "confirmed"
    assert later.effect.unit == "share"
    assert later.effect.low > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_an_effect_that_stays_refutes_its_suspect(make_lab, infos, seed):
    _, now = judged(measured(make_lab(seed=seed, law=lambda spec: turning_helps(spec, left=1.0)), (0, 1, 2)), infos)
    assert now.status == "refuted"
    assert now.effect.high < 0.5


def test_without_an_effect_there_is_no_cause_to_state(make_lab, infos):
    named = {info.name: info for info in infos}
    stated = [CauseAnalyst().analyse(measured(make_lab(seed=seed)), named) for seed in range(20)]
    assert sum(map(len, stated)) <= 2


def test_edited_trials_count_for_nothing_else(make_lab):
    history = measured(make_lab(law=turning_helps))
    assert {r.spec.edits for r in history.completed} == {()}
    assert len(history.results()) == 2
    assert len(history.edited()) == 2


def with_outliers(lab, keys: float, values: float):
    """The laboratory, whose attention trials show outlier channels."""
    plain = lab.measure

    def measure(spec):
        metrics, arrays = plain(spec)
        if spec.protocol == "attention":
            arrays = {**arrays, "layer_key_outliers": (keys,) * 3, "layer_value_outliers": (values,) * 3}
        return metrics, arrays

    lab.measure = measure
    return lab


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_campaign_names_the_cause_that_captures_show(make_lab, infos, simulate, seed):
    lab = with_outliers(make_lab(seed=seed, law=turning_helps), keys=8.0, values=1.5)
    run = simulate(lab, infos, 280, seed=seed)
    edited = [r for r in run.records if r.spec.edits]
    assert edited
    assert {r.proposer for r in edited} == {"cause", "replication"}
    assert Counter(edits.part for r in edited for edits in r.spec.edits).keys() == {"keys"}
    assert run.keys("cause:kld", "confirmed")


def test_without_outliers_no_weights_are_edited(make_lab, infos, simulate):
    run = simulate(with_outliers(make_lab(law=turning_helps), keys=1.2, values=1.1), infos, 120)
    assert not any(r.spec.edits for r in run.records)


def test_what_captures_show_comes_with_its_size_and_its_trial(make_lab):
    lab = with_outliers(make_lab(), keys=4.0, values=9.0)
    spec = TrialSpec(model="alpha", kv=PLAIN, protocol="attention")
    history = History((lab.run(0, Proposal(spec=spec, proposer="test")),))
    assert [(suspect.side, round(size, 6), trial) for suspect, size, trial in causes.seen(history, "alpha")] == [
        ("value", 9.0, history.records[0].id),
        ("key", 4.0, history.records[0].id),
    ]
    assert causes.seen(history, "beta") == []
