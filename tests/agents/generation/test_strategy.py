from __future__ import annotations

from collections import Counter

import pytest

from swarm.agents.analysis import judge
from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.samplers.random import draw
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.experiments.protocols.base import protocol
from swarm.experiments.space.search_space import Space
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory.records import TrialRecord


def law(spec) -> float:
    turned = [side.rotation == "hadamard" for side in (spec.kv.key, spec.kv.value)]
    return sum(turned) * (-0.6 if spec.model == "alpha" else 0.5)


def made(infos, seed=0, **settings) -> GenerationStrategy:
    return GenerationStrategy(Space(infos), AnalysisEngine(infos, AgentSettings(**settings)), seed)


@pytest.fixture(scope="module")
def finished(request):
    """Three campaigns of different seeds, run once."""
    return {}


def run_of(finished, make_lab, simulate, infos, seed, budget=150):
    if (seed, budget) not in finished:
        finished[seed, budget] = simulate(make_lab(seed=seed, law=law), infos, budget, seed=seed)
    return finished[seed, budget]


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_trial_is_new_and_in_its_space(finished, make_lab, simulate, infos, seed) -> None:
    run = run_of(finished, make_lab, simulate, infos, seed)
    space = Space(infos)
    assert len({r.fingerprint for r in run.records}) == len(run.records)
    for record in run.records:
        space.params(record.spec.model_copy(update={"replicate": 0, "seed": 0, "rung": 0}))
    kinds = Counter(r.spec.protocol for r in run.records)
    assert kinds["quality"] > kinds["attention"] > 0
    assert kinds["depth"] > 0
    for info in infos:
        share = sum(r.spec.model == info.name for r in run.records) / len(run.records)
        assert 0.4 < share < 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_any_driver_that_resumes_proposes_the_same(finished, make_lab, simulate, infos, seed) -> None:
    run = run_of(finished, make_lab, simulate, infos, seed)
    for number in (0, 39, 70, 101, 149):
        resumed = made(infos, seed)
        history = History.before(number, run.records, 8)
        assert resumed.propose(number, history).spec == run.records[number].spec


@pytest.mark.parametrize("seed", [0, 1])
def test_findings_go_on_from_the_last_milestone_that_was_judged(
    finished, make_lab, simulate, infos, seed, monkeypatch
) -> None:
    run = run_of(finished, make_lab, simulate, infos, seed)
    histories = [History.before(number, run.records, 8) for number in (147, 148, 149)]
    expected = AnalysisEngine(infos, AgentSettings()).standing(149, histories[2])
    engine, unwatched, judged = AnalysisEngine(infos, AgentSettings()), judge.judge, []
    monkeypatch.setattr(judge, "judge", lambda *args: judged.append(args) or unwatched(*args))
    assert engine.standing(147, histories[0])
    assert len(judged) == 14
    judged.clear()
    assert engine.standing(148, histories[1]) == engine.standing(149, histories[2]) == expected
    assert not judged


def test_results_inside_the_lag_change_nothing(finished, make_lab, simulate, infos) -> None:
    run = run_of(finished, make_lab, simulate, infos, 0)
    number = 120
    later = [r.model_copy(update={"state": "failed", "metrics": {}}) if r.number >= 112 else r for r in run.records]
    for records in (run.records, later, [r for r in run.records if r.number < number]):
        strategy = made(infos)
        assert strategy.propose(number, History.before(number, records, 8)).spec == run.records[number].spec


def test_seeds_give_different_campaigns(finished, make_lab, simulate, infos) -> None:
    one, other = (run_of(finished, make_lab, simulate, infos, seed) for seed in (0, 1))
    specs = [{r.spec for r in run.records if r.arm == "control"} for run in (one, other)]
    assert specs[0] != specs[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_control_arm_never_sees_the_agents(finished, make_lab, simulate, infos, seed) -> None:
    run = run_of(finished, make_lab, simulate, infos, seed)

    def blind(record: TrialRecord) -> TrialRecord:
        other = {name: m.model_copy(update={"value": m.value * 7}) for name, m in record.metrics.items()}
        return record.model_copy(update={"metrics": other, "arrays": {}}) if record.arm == "agents" else record

    changed = [blind(r) for r in run.records]
    checked = 0
    for record in run.records:
        if record.arm == "control" and record.number > 60:
            strategy = made(infos, seed)
            again = strategy.propose(record.number, History.before(record.number, changed, 8))
            assert again.spec == record.spec
            checked += 1
        if checked == 6:
            break
    assert checked == 6


def test_defaults_are_measured_first_whatever_the_budget(make_lab, simulate, infos) -> None:
    run = simulate(make_lab(), infos, 7)
    assert {r.arm for r in run.records} == {"defaults"}
    assert [r.spec.kv.key.method for r in run.records[:2]] == ["none", "none"]


def test_failures_do_not_stop_the_swarm(make_lab, simulate, infos) -> None:
    outcomes = ("nan", "oom", "crash", "timeout")

    def fails(spec) -> str:
        return outcomes[int(fingerprint(spec), 16) % 8] if int(fingerprint(spec), 16) % 8 < 4 else ""

    run = simulate(make_lab(fails=fails), infos, 130)
    assert len({r.fingerprint for r in run.records}) == 130
    assert sum(r.state == "complete" for r in run.records) > 30
    everything = simulate(make_lab(fails=lambda spec: "error"), infos, 100)
    assert len(everything.records) == 100
    assert everything.keys("contrast") == []


def test_promotions_go_to_the_best_of_the_cheap_rung(finished, make_lab, simulate, infos) -> None:
    run = run_of(finished, make_lab, simulate, infos, 0)
    promoted = [r for r in run.records if r.spec.rung == 1]
    assert promoted
    cheap = {(r.spec.model, r.spec.kv, r.spec.layers): r for r in run.records if r.spec.protocol == "quality"}
    for record in promoted:
        base = cheap[record.spec.model, record.spec.kv, record.spec.layers]
        seen = [
            r
            for r in run.records
            if r.spec.model == record.spec.model
            and r.number < record.number - 8
            and r.spec.protocol == "quality"
            and r.spec.rung == 0
            and r.spec.replicate == 0
        ]
        cost, level = base.metrics["bits_per_value"].value, base.metrics["kld"].value
        better = [r for r in seen if r.metrics["bits_per_value"].value <= cost and r.metrics["kld"].value < 0.5 * level]
        assert len(better) <= len(seen) / 4


def test_a_used_up_space_is_measured_again_elsewhere(make_lab, make_info, infos) -> None:
    class Tiny(Space):
        def random(self, rng, info, protocol="quality"):
            return self.defaults(info)[0]

    space = Tiny(infos)
    strategy = GenerationStrategy(space, AnalysisEngine(infos, AgentSettings(control_share=1.0)), 0)
    records = [
        make_lab().run(0, strategy.propose(0, History(()))),
    ]
    again = draw(strategy.context(2, History.before(2, records, 0)))
    assert again.replicate == 1
    assert again.kv == records[0].spec.kv


def test_bad_settings_are_refused(infos) -> None:
    with pytest.raises(UsageError, match="no model"):
        made([])
    with pytest.raises(UnknownNameError, match="kind of trial"):
        made(infos, shares={"guessing": 1.0})


def test_one_model_and_unequal_models_work(make_lab, make_info, simulate) -> None:
    alone = simulate(make_lab(), [make_info("solo", head_dim=96, n_layers=2)], 70)
    assert len({r.fingerprint for r in alone.records}) == 70
    odd = [make_info("one", head_dim=80, n_layers=1), make_info("biased", head_dim=256, n_layers=40, key_bias=True)]
    pair = simulate(make_lab(), odd, 110)
    assert len({r.fingerprint for r in pair.records}) == 110


def test_a_raised_version_measures_its_own_defaults(lab, simulate, infos, raise_version):
    run = simulate(lab, infos, 24)
    defaults = {spec for info in infos for spec in Space(infos).defaults(info)}
    assert [r.spec for r in run.records if r.arm == "defaults"] == [r.spec for r in run.records[: len(defaults)]]
    raise_version(type(protocol("quality")))
    records = [record.model_copy(update={"outdated": True}) for record in run.records]
    for number in range(24, 24 + 2 * len(defaults) + 4):
        history = History.before(number, records, 8, run.findings)
        records.append(lab.run(number, run.strategy.propose(number, history)))
    again = [record for record in records[24:] if record.arm == "defaults"]
    assert {record.spec for record in again} == defaults
    assert len(again) == len(defaults)
    assert {record.proposer for record in again} == {"defaults"}
    assert len({record.fingerprint for record in records}) == len(records)
    # A model's turn is its defaults' first.
    for info in infos:
        own = [record.arm for record in records[24:] if record.spec.model == info.name]
        assert own[: len(defaults) // 2].count("defaults") == len(defaults) // 2
