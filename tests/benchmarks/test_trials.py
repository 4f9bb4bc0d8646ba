"""Whether contestants of the benchmark `trials` measure the same, and how their rankings are compared."""

import importlib
import math
from multiprocessing import Pipe

import numpy as np
import pytest

from swarm.experiments.models import registry

decided = importlib.import_module("benchmarks._decided")
final = importlib.import_module("benchmarks._final")
report = importlib.import_module("benchmarks._trial_page")
trials = importlib.import_module("benchmarks.trials")

CONTEXT, COUNT = 96, 30


@pytest.fixture(scope="module")
def found(tiny_models):
    """A run of ours and a run of the careful loop on the same configurations."""
    model = tiny_models["llama"]
    wanted = decided.configurations(registry.describe(model), COUNT, seed=1)
    runs = []
    for contestant in (report.OURS, report.CAREFUL):
        receiver, sender = Pipe(duplex=False)
        trials.contest(contestant, model, wanted, CONTEXT, sender)
        runs.append(receiver.recv())
        assert len(runs[-1]["wall"]) == len(runs[-1]["cpu"]) == COUNT
    return runs


def test_what_is_promoted_measures_what_the_careful_loop_measures(found):
    ours, loop = found
    assert 1 <= len(ours["dear"]) < COUNT / 2
    for place, answer in ours["dear"].items():
        other = loop["answers"][place]
        assert answer["kld"] == pytest.approx(other["kld"], rel=1e-2, abs=1e-6)
        assert answer["bits"] == pytest.approx(other["bits"], rel=1e-12)
        assert answer["same_top1"] == pytest.approx(other["same_top1"], abs=0.02)
    same = final.agreement(loop["answers"], ours["dear"])
    assert same["n"] == len(ours["dear"])
    assert same["kld_median"] <= same["kld_largest"] < 1e-2


def test_ours_at_full_fidelity_agrees_on_what_was_not_promoted(tiny_models, found):
    info = registry.describe(tiny_models["llama"])
    wanted = decided.configurations(info, 4, seed=1)
    full = decided.plain(decided.full_fidelity(info, wanted, CONTEXT, decided.Laps()))
    same = final.agreement(found[1]["answers"], dict(enumerate(full)))
    assert same["n"] == 4
    assert same["kld_largest"] < 1e-2


def test_a_run_makes_a_page_whose_goals_are_what_was_found(found):
    ours, loop = found
    compared = report.compared({report.OURS: [ours, ours], report.CAREFUL: [loop]}, [])
    assert compared["repeats"]
    assert compared["promoted"] == len(ours["dear"])
    campaign = {"models": ["tiny"], "wall": 300.0, "trials": 330, "complete": 330, "kinds": {}}
    verdict = report.verdict({"models": {"tiny": compared}, "campaign": campaign})
    ratio = compared["wall"]["ratio"]["ratio"]
    assert f"5 times the careful loop: {'met' if ratio >= 5 else 'not met'}" in verdict
    assert "4 minutes on 2 cores: not met (5.0 minutes)" in verdict
    assert "4 minutes on 2 cores: met" in report.verdict(
        {"models": {"tiny": compared}, "campaign": campaign | {"wall": 200.0}}
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_configurations_are_drawn_once_and_within_what_may_be_promoted(infos, seed):
    for info in infos.values():
        wanted = decided.configurations(info, 40, seed)
        assert wanted == decided.configurations(info, 40, seed)
        assert len(set(wanted)) == 40
        assert not any(kv.key.scaling == "learned" or kv.value.scaling == "learned" for kv in wanted)


def answers(*klds):
    return [{"kld": kld, "bits": float(place), "same_top1": 1.0} for place, kld in enumerate(klds)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_cheap_rung_that_is_a_power_of_the_dear_one_gives_its_ranking(seed):
    truth = np.random.default_rng(seed).lognormal(size=12)
    dear = answers(*truth)
    found = final.merged(answers(*truth**0.5 / 3), {place: dear[place] for place in (0, 5, 7)})
    assert np.allclose(found, np.log(truth))
    assert final.tau(final.levels(dear), found) == pytest.approx(1.0)
    assert final.tau(final.levels(dear), -found) == pytest.approx(-1.0)


def test_tau_sees_only_the_best_of_the_true_ranking():
    truth = np.arange(6.0)
    assert final.tau(truth, np.array([0, 1, 2, 9, 8, 7.0]), top=3) == pytest.approx(1.0)
    assert final.tau(truth, np.array([1, 0, 2, 3, 4, 5.0]), top=3) == pytest.approx(1 / 3)


def test_what_broke_down_ranks_last_and_is_on_no_front():
    found = answers(0.3, None, 0.1)
    assert list(final.levels(found)) == [math.log(0.3), math.inf, math.log(0.1)]
    assert list(np.argsort(final.merged(found, {}))) == [2, 0, 1]
    assert final.best(found) == [0, 2]


def test_everything_promoted_is_the_careful_ranking():
    truth = answers(0.4, 0.1, 0.2, 0.3)
    points = final.curve(truth, answers(1.0, 2.0, 3.0, 4.0), [3, 2, 1, 0])
    assert points[0]["share"] == 0.0
    assert points[0]["tau"] < points[-1]["tau"] == pytest.approx(1.0)
