"""Recommendations: what is chosen, how sure it is said to be, and what happens when too little is known."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from swarm.agents.analysis.comparable import AskedModel, ComparableResults
from swarm.agents.analysis.recommend import recommend
from swarm.agents.analysis.recommendation import CostLimits, NothingToRecommendError
from swarm.experiments.space.search_space import Space
from swarm.memory.records import Proposal


def measured(lab, info, count, *, seed=0, start=0, replicates=(0,)):
    """Trials of random configurations of all layers, on some sets of text windows each."""
    space, rng = Space([info]), np.random.default_rng(seed)
    pool = []
    while len(pool) < count:
        spec = space.random(rng, info)
        if spec.layers is None and not spec.kv.overrides and spec.kv.key.method != "none" != spec.kv.value.method:
            pool.append(spec)
    specs = [spec.model_copy(update={"replicate": r, "seed": r}) for spec in pool for r in replicates]
    return [lab.run(start + n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)]


def asked(info):
    return AskedModel(info.name, info.layers, info.key_bias, info.digest)


def answer(infos, records, model=0, **limits):
    known = ComparableResults(asked(infos[model]), records, {i.name: i.layers for i in infos})
    return recommend(known, CostLimits(**limits))


def truth(lab, info, kv):
    """The mean KLD over all windows that there could be: windows and rest are lognormal."""
    spec = Space([info]).defaults(info)[0].model_copy(update={"kv": kv})
    return exp(lab.log_kld(spec) + (0.3**2 + lab.noise**2) / 2)


def width(estimate):
    return log(estimate.high / estimate.low)


def test_the_same_trials_give_the_same_answer_in_whatever_order_models_are_known(lab, infos) -> None:
    records = [*measured(lab, infos[0], 20), *measured(lab, infos[1], 20, seed=1, start=50)]
    first, second = answer(infos, records, bits=5), answer(infos[::-1], records, 1, bits=5)
    assert first == answer(infos, records, bits=5)
    assert (first.choice.kv, first.runner_up.kv) == (second.choice.kv, second.runner_up.kv)
    assert first.choice.loss.value == pytest.approx(second.choice.loss.value, rel=1e-6)


def test_the_choice_is_within_the_limit_and_close_to_the_best_there_is(lab, infos) -> None:
    records = measured(lab, infos[0], 50)
    found = answer(infos, records, bits=5.0)
    assert found.choice.bits_per_value <= 5.0
    assert found.choice.trials
    inside = [r for r in records if r.metrics["bits_per_value"].value <= 5.0]
    best = min(truth(lab, infos[0], r.spec.kv) for r in inside)
    assert truth(lab, infos[0], found.choice.kv) <= 1.3 * best


def with_shared_rest(lab, spread):
    """The laboratory, in which windows are harder for one method and rotation of the keys than for others."""
    plain = lab.measure

    def measure(spec):
        metrics, arrays = plain(spec)
        rng = lab.stream(spec.model, spec.replicate, spec.kv.key.method, spec.kv.key.rotation)
        kld = np.array(arrays["window_kld"]) * np.exp(rng.normal(-(spread**2) / 2, spread, 4))
        metrics["kld"] = metrics["kld"].model_copy(update={"value": float(kld.mean())})
        return metrics, {"window_kld": tuple(kld.tolist())}

    lab.measure = measure
    return lab


@pytest.mark.parametrize(("noise", "shared"), [(0.12, 0.0), (0.5, 0.0), (0.12, 0.4)])
def test_intervals_of_the_chosen_hold_what_other_windows_say(make_lab, infos, noise, shared) -> None:
    covered, off = [], []
    for seed in range(24):
        lab = with_shared_rest(make_lab(seed, noise=noise), shared)
        found = answer(infos, measured(lab, infos[0], 24, seed=seed), bits=5.0)
        loss, real = found.choice.loss, truth(lab, infos[0], found.choice.kv)
        covered.append(loss.low <= real <= loss.high)
        off.append(log(real / loss.value))
    assert 0.75 <= np.mean(covered) <= 1.0
    assert abs(np.mean(off)) < 0.25, "the best of many noisy results looks no better than it is"


def test_a_model_without_trials_is_answered_from_the_others_and_less_surely(lab, infos) -> None:
    own, others = measured(lab, infos[0], 25), measured(lab, infos[1], 25, start=50)
    known, guessed = answer(infos, [*own, *others], bits=5), answer(infos, others, bits=5)
    assert not guessed.choice.trials
    assert width(guessed.choice.loss) > 1.5 * width(known.choice.loss)
    assert any("itself" in text for text in guessed.untested)
    assert {one.spec.model for one in guessed.decisive} == {infos[0].name}
    real = truth(lab, infos[0], guessed.choice.kv)
    assert guessed.choice.loss.low <= real <= guessed.choice.loss.high


@pytest.mark.parametrize("seed", range(6))
def test_fewer_windows_make_wider_intervals(make_lab, infos, seed) -> None:
    records = measured(make_lab(seed), infos[0], 12, seed=seed, replicates=(0, 1, 2))
    found = answer(infos, records, bits=6)
    few = answer(infos, [r for r in records if r.spec.replicate == 0], bits=6)
    same = ComparableResults(asked(infos[0]), records, {}).levels.at(infos[0].name, [few.choice.kv])
    _, low, high = same.interval(0, 0.9)
    assert log(high / low) < width(few.choice.loss)
    assert found.choice.loss.low <= found.choice.loss.value <= found.choice.loss.high


def test_a_trial_that_is_planned_makes_everything_surer_and_moves_nothing(lab, infos) -> None:
    known = ComparableResults(asked(infos[0]), measured(lab, infos[0], 15), {})
    pool = list(known.own)
    before = known.levels.at(infos[0].name, pool)
    after = before.after(3, [(1, k) for k in range(4)])
    assert (after.mean == before.mean).all()
    assert (after.variance <= before.variance + 1e-12).all()
    assert after.variance[3] < before.variance[3]


def test_a_tolerance_gives_the_cheapest_that_stays_below_it(lab, infos) -> None:
    records = measured(lab, infos[0], 50)
    strict, loose = (answer(infos, records, tolerance=limit) for limit in (0.01, 0.2))
    assert strict.choice.loss.high <= 0.01
    assert loose.choice.loss.high <= 0.2
    assert loose.choice.bits_per_value < strict.choice.bits_per_value
    with pytest.raises(NothingToRecommendError, match="upper limit"):
        answer(infos, records, tolerance=1e-9)


def test_memory_is_counted_at_its_context_with_what_stays_in_16_bit(lab, infos) -> None:
    records = measured(lab, infos[0], 50)
    sixteen = answer(infos, records, cache_bytes=10**9, context=4096)
    assert sixteen.choice.loss.value == 0
    whole = sixteen.choice.cache_bytes
    found = answer(infos, records, cache_bytes=whole // 3, context=4096)
    assert found.choice.cache_bytes <= whole // 3
    with pytest.raises(NothingToRecommendError, match="takes"):
        answer(infos, records, cache_bytes=whole // 100, context=4096)


def test_nothing_is_recommended_from_nothing(lab, infos) -> None:
    with pytest.raises(NothingToRecommendError, match="only 0"):
        answer(infos, [], bits=4)
    with pytest.raises(NothingToRecommendError, match="cheapest"):
        answer(infos, measured(lab, infos[0], 20), bits=0.5)


def test_edited_and_outdated_trials_count_for_nothing(lab, infos) -> None:
    records = measured(lab, infos[0], 20)
    older = [r.model_copy(update={"outdated": True, "metrics": {}}) for r in measured(lab, infos[0], 20, seed=5)]
    assert answer(infos, records, bits=5) == answer(infos, [*records, *older], bits=5)


def test_a_few_trials_at_another_context_do_not_hide_what_was_measured(lab, infos) -> None:
    records = measured(lab, infos[1], 20)
    few = [
        r.model_copy(update={"spec": r.spec.model_copy(update={"context": 64})})
        for r in measured(lab, infos[0], 3, start=50)
    ]
    assert answer(infos, [*records, *few], bits=6) == answer(infos, records, bits=6)
