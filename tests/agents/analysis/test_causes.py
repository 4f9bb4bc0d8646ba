"""Causes: what captures show is tested by taking it out; errors that stay refute it."""

from __future__ import annotations

from math import log

import pytest

from swarm.agents.analysis import causes, judge, moved_bits
from swarm.agents.analysis.analysts.cause import CauseAnalyst
from swarm.agents.analysis.claims import Claim
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments.sizing.method import cache_bytes
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal

PLAIN, TURNED = (KVSpec.parse(f"K affine4/g64{turn} V affine4/g64") for turn in ("", "+hadamard"))
EDIT = "keys balanced"


def turning_helps(spec, left: float = 0.0) -> float:
    """Rotated keys are better; of that, the share `left` stays when the keys are balanced."""
    gain = -0.8 * (spec.kv.key.rotation == "hadamard")
    return gain * (left if spec.edits else 1.0)


def measured(lab, replicates=(0,)) -> History:
    specs = [
        TrialSpec(model="alpha", kv=kv, edits=edits, replicate=replicate, seed=replicate)
        for replicate in replicates
        for edits in ("", EDIT)
        for kv in (PLAIN, TURNED)
    ]
    return History(tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)))


def judged(history, infos, start="cause:"):
    named = {info.name: info for info in infos}
    (found,) = (f for f in CauseAnalyst().analyse(history, named) if f.key.startswith(start))
    (status,) = (f for f in judge.judge([found], [], history, named) if f.key == found.key)
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


def halving(spec) -> float:
    """Channels in layer 2 of beta's keys double its errors; alpha has nothing of the kind."""
    ill = spec.model == "beta" and not spec.edits and spec.kv.key.method != "none"
    return log(2) * (ill and (spec.layers is None or 2 in spec.layers))


def tried(lab, replicates, layers=(2,)):
    kv = KVSpec.parse("K affine4/g64 V none").on(layers)
    edit = EDIT + causes.place(layers).removeprefix(" in")
    specs = [
        TrialSpec(model=model, kv=kv, edits=edits, replicate=replicate, seed=replicate)
        for replicate in replicates
        for model in ("alpha", "beta")
        for edits in ("", edit)
    ]
    return History(tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)))


@pytest.mark.parametrize("seed", range(5))
def test_errors_that_fall_without_a_suspect_name_it_with_side_and_layer_where_it_is(make_lab, infos, seed):
    named = {info.name: info for info in infos}
    lab = make_lab(seed=seed, law=halving, noise=0.05)
    history = tried(lab, (0, 1, 2))
    found = {f.key.partition(":")[0] + "".join(f.models): f for f in CauseAnalyst().analyse(history, named)}
    status = {f.key: f.status for f in judge.judge(found.values(), [], history, named)}
    assert status[found["interventionbeta"].key] == status[found["differencebetaalpha"].key] == "confirmed"
    assert status[found["interventionalpha"].key] == "refuted"
    assert "differencealphabeta" not in found
    assert "keys" in found["differencebetaalpha"].statement
    assert "in layer 2" in found["differencebetaalpha"].statement
    first = judge.judge(found.values(), [], tried(lab, (0,)), named)
    assert {f.status for f in first} == {"hypothesis", "refuted"}


def test_where_edits_change_nothing_nothing_is_confirmed(make_lab, infos):
    named = {info.name: info for info in infos}
    confirmed = 0
    for seed in range(60):
        history = tried(make_lab(seed=seed, noise=0.3), (0, 1, 2), layers=None)
        found = CauseAnalyst().analyse(history, named)
        confirmed += any(f.status == "confirmed" for f in judge.judge(found, [], history, named))
    assert confirmed <= 4  # of 60 at 5%, with two suspected models each


def test_edited_trials_count_for_nothing_else(make_lab):
    history = measured(make_lab(law=turning_helps))
    assert {r.spec.edits for r in history.completed} == {()}
    assert len(history.results()) == 2
    assert len(history.edited) == 2


def showing(lab, keys=1.1, values=1.1, ill=None):
    """The laboratory, whose attention trials show channels; one layer of `ill`'s keys has more of them."""
    plain = lab.measure

    def measure(spec):
        metrics, arrays = plain(spec)
        if spec.protocol == "attention":
            layers = range(lab.n_layers.get(spec.model, 12))
            own = tuple(keys * (1.5 if (spec.model, layer) == (ill, 2) else 1.0) for layer in layers)
            arrays = {**arrays, "layer_key_imbalance": own, "layer_value_unevenness": (values,) * len(layers)}
        return metrics, arrays

    lab.measure = measure
    return lab


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_campaign_names_the_layer_in_which_a_model_differs_from_its_twin(make_lab, make_info, simulate, seed):
    lab = showing(make_lab(seed=seed, law=halving), ill="beta")
    run = simulate(lab, [make_info("alpha"), make_info("beta")], 150, seed=seed)
    edited = [r for r in run.records if r.spec.edits]
    assert {r.proposer for r in edited} <= {"cause", "replication"}
    assert {(edit.part, edit.layers) for r in edited for edit in r.spec.edits} == {("keys", (2,))}
    (found,) = (
        f.finding for f in run.findings if f.finding.key.startswith("difference:kld") and f.finding.author == "cause"
    )
    assert (found.models, found.status) == (("beta", "alpha"), "confirmed")


def test_what_is_balanced_is_not_edited(make_lab, infos, simulate):
    run = simulate(showing(make_lab(law=turning_helps)), infos, 120)
    assert not any(r.spec.edits for r in run.records)


def test_a_key_bias_is_taken_out_where_there_is_one_alone(make_lab, make_info, simulate):
    lab = showing(make_lab())
    plain = lab.measure

    def measure(spec):
        metrics, arrays = plain(spec)
        layers = lab.n_layers.get(spec.model, 12) if spec.protocol == "attention" else 0
        return metrics, {**arrays, "layer_key_outliers": ((9.0 if spec.model == "biased" else 2.0),) * layers}

    lab.measure = measure
    infos = [make_info("biased", key_bias=True), make_info("plain")]
    run = simulate(lab, infos, 90, settings=AgentSettings(shares={"cause": 0.8}))
    assert {r.spec.model for r in run.records if r.spec.kv.key_bias == "subtract"} == {"biased"}
    assert any("biases of the keys" in r.rationale for r in run.records)


def test_suspicions_come_with_their_size_and_their_trial(make_lab, make_info):
    lab = showing(make_lab(), keys=1.3, values=1.9)
    infos = {name: make_info(name) for name in ("alpha", "beta")}
    spec = TrialSpec(model="alpha", kv=PLAIN, protocol="attention")
    history = History((lab.run(0, Proposal(spec=spec, proposer="test")),))
    found = causes.suspicions(history, infos, "alpha")
    assert [(s.suspect.side, round(s.size, 6), s.layers, s.shown) for s in found] == [
        ("value", 1.9, None, history.records[0].id),
        ("key", 1.3, None, history.records[0].id),
    ]
    assert causes.suspicions(history, infos, "beta") == []


def test_layers_are_compared_where_they_differ_enough_and_pairs_have_the_largest_and_the_smallest():
    sizes = {0: 1.0, 1: 8.0, 2: 1.2, 3: 1.1, 4: 5.0, 5: 1.3, 6: 2.5, 7: 1.05, 8: 2.1}
    assert moved_bits.layers_apart({layer: log(size) for layer, size in sizes.items()}) == ((1, 4, 6), (0, 3, 7))
    assert moved_bits.layers_apart(dict.fromkeys(range(9), 0.0)) == ((), ())


def test_a_bit_goes_both_ways_at_the_same_cost_and_the_way_is_told_from_the_cache(make_info):
    kv = KVSpec.parse("K affine4/g64 V none")
    there, back = moved_bits.both_ways(kv, (1, 4), (0, 3))
    assert [there.at(layer).key.bits for layer in range(5)] == [3, 5, 4, 3, 5]
    assert [back.at(layer).key.bits for layer in range(5)] == [5, 3, 4, 5, 3]
    assert (moved_bits.other_way(there), moved_bits.other_way(back), moved_bits.other_way(kv)) == (back, None, None)
    layers = make_info("alpha").layers
    assert cache_bytes(layers, there, 512) == cache_bytes(layers, back, 512) == cache_bytes(layers, kv, 512)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("matters", [True, False])
def test_whether_errors_count_more_where_g_is_large_is_tested_on_other_windows(make_lab, make_info, matters, seed):
    def wide_where_it_is_large(spec):
        return log(0.5) * matters * (spec.kv.at(2).key.bits == 5)

    info, lab = make_info("alpha", n_layers=9), make_lab(seed=seed, law=wide_where_it_is_large)
    look = lab.run(0, Proposal(spec=TrialSpec(model="alpha", kv=PLAIN, protocol="attention"), proposer="test"))
    g = tuple(4.0 if layer == 2 else 1.0 for layer in range(9))
    look = look.model_copy(update={"arrays": {**look.arrays, "layer_g": g}})
    (suspicion,) = causes.suspicions(History((look,)), {"alpha": info}, "alpha")
    assert (suspicion.layers, suspicion.least, suspicion.shown) == ((2,), (8,), look.id)
    pair = causes.trials(suspicion, TrialSpec(model="alpha"), PLAIN)
    assert all(spec.kv.value.method == "none" and spec.layers is None for spec in pair)
    specs = [spec.model_copy(update={"replicate": r, "seed": r}) for r in range(4) for spec in pair]
    trials = [lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs, 1)]
    found = CauseAnalyst().analyse(History((look, *trials)), {"alpha": info})
    judged = judge.judge(found, [], History((look, *trials)), {"alpha": info})
    assert [f.status for f in judged if f.status == "confirmed"] == ["confirmed"] * matters
    if matters:
        assert "(G) in layer 2 cause errors: with a bit of the keys moved there" in judged[0].statement
        assert judged[0].effect.low < 0.5 < judged[0].effect.high
