"""The designed experiment: equal bits, estimable effects, found where they are and nowhere else."""

from __future__ import annotations

from itertools import combinations
from math import log
from statistics import fmean

import numpy as np
import pytest

from swarm.agents.analysis import design, judge
from swarm.agents.analysis.analysts.factors import FactorAnalyst
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.history import History
from swarm.experiments.sizing.method import cache_bytes
from swarm.experiments.space.search_space import Space
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal

PER_CHANNEL = "factor:kld:key-axis"


def law(spec) -> float:
    """Keys per channel halve the KLD on alpha and change nothing on beta; the common law is taken out."""
    return log(0.5) * (spec.model == "alpha" and spec.kv.key.axis == "channel")


def flat(make_lab, law=lambda spec: 0.0, **fields):
    """A laboratory in which nothing matters but the law."""
    lab = make_lab(law=law, **fields)
    lab.log_kld = lambda spec: -3.0 + law(spec)
    return lab


def history(lab, replicates=(0, 1), models=("alpha", "beta")) -> History:
    specs = [
        TrialSpec(model=model, kv=kv, replicate=replicate, seed=replicate)
        for replicate in replicates
        for kv in design.PLAIN.rows.values()
        for model in models
    ]
    return History(tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)))


@pytest.fixture
def mixed(make_info):
    """A model whose layers are of two kinds."""
    return make_info("mixed", n_layers=6, windows=(512, 512, None) * 2)


def test_configurations_are_different_and_factors_are_balanced_in_pairs(mixed):
    for block in design.blocks(mixed):
        assert len(set(block.rows.values())) == len(block.rows)
        levels = np.array(list(block.rows)) * 2 - 1
        assert levels.shape[1] == len(block.factors)
        assert (levels.sum(0) == 0).all()
        # No main effect is mixed up with another one, nor with an interaction of two others.
        for a, b in combinations(range(len(block.factors)), 2):
            assert levels[:, a] @ levels[:, b] == 0
            for c in set(range(len(block.factors))) - {a, b}:
                assert (levels[:, a] * levels[:, b]) @ levels[:, c] == 0


def test_the_levels_of_every_factor_cost_the_same_and_are_in_the_search_space(infos, mixed):
    for info in (*infos, mixed):
        space, whole = Space([info]), cache_bytes(info.layers, KVSpec(), 512)
        for block in design.blocks(info)[1:]:  # plans count keys of the first that wait for their group to fill
            for kv in block.rows.values():
                space.params(TrialSpec(model=info.name, model_digest=info.digest, kv=kv))
            bits = {levels: 16 * cache_bytes(info.layers, kv, 512) / whole for levels, kv in block.rows.items()}
            for index, factor in enumerate(block.factors):
                means = [fmean(b for levels, b in bits.items() if levels[index] == level) for level in (0, 1)]
                assert costs_the_same(*means), factor


def test_kinds_of_layers_are_a_factor_where_there_are_two(infos, mixed):
    names = {factor.name for block in design.blocks(mixed) for factor in block.factors}
    assert {"bits-to-keys-global", "bits-to-keys-windowed"} <= names
    assert len(design.blocks(infos[0])) == len(design.blocks(mixed)) - 1
    (cell,) = (kv for levels, kv in design.blocks(mixed)[2].rows.items() if levels == (1, 0))
    assert [(cell.at(layer).key.bits, cell.at(layer).value.bits) for layer in range(3)] == [(3, 4), (3, 4), (4, 3)]


@pytest.mark.parametrize("seed", range(3))
def test_what_bits_do_in_the_layers_of_a_kind_is_told_apart(make_lab, mixed, seed):
    def keys_matter_in_global_layers(spec):
        return log(2) * (spec.kv.at(2).key.bits == 3)

    lab = flat(make_lab, keys_matter_in_global_layers, seed=seed, noise=0.1)
    specs = [
        TrialSpec(model="mixed", kv=kv, replicate=replicate, seed=replicate)
        for replicate in (0, 1)
        for kv in design.blocks(mixed)[2].rows.values()
    ]
    seen = History(tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)))
    (found,) = FactorAnalyst().analyse(seen, {"mixed": mixed})
    assert found.key == "factor:kld:bits-to-keys-global:mixed"
    assert found.effect.low < 0.5 < found.effect.high


def test_names_of_factors_are_unique(mixed):
    names = [factor.name for block in design.blocks(mixed) for factor in block.factors]
    assert len(set(names)) == len(names)


def test_a_factor_whose_levels_do_not_cost_the_same_has_no_effect(make_lab):
    lab = flat(make_lab)
    lab.cost = lambda spec: 4.5 + 0.5 * (spec.kv.sink_tokens > 0)
    block = design.ROTATED
    specs = [TrialSpec(model="alpha", kv=kv) for kv in block.rows.values()]
    seen = History(tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)))
    found = block.effects(block.measured(list(seen.results().values()), "alpha"))
    assert {factor.name for factor in found} == {"wide-groups", "value-method", "bits-to-rotated-keys"}


@pytest.mark.parametrize("seed", range(5))
def test_an_effect_on_one_model_is_found_there_and_as_a_difference(make_lab, infos, seed):
    seen = history(flat(make_lab, law, seed=seed))
    named = {info.name: info for info in infos}
    found = FactorAnalyst().analyse(seen, named)
    assert [f.key for f in found] == [f"{PER_CHANNEL}:alpha", f"{PER_CHANNEL}:alpha:beta"]
    assert [f.kind for f in found] == ["sensitivity", "contrast"]
    assert found[0].statement.startswith("On alpha keys per channel instead of per token ")
    assert " on beta they change nothing" in found[1].statement
    assert all(f.effect.low < 0.6 and f.effect.high < 0.8 for f in found)
    status = {f.key: f.status for f in judge.judge(found, [], seen, named)}
    assert status[f"{PER_CHANNEL}:alpha"] == "confirmed"
    (first,) = (
        f
        for f in judge.judge(found, [], history(flat(make_lab, law, seed=seed), (0,)), named)
        if ":beta" not in f.key and f.key.startswith(PER_CHANNEL)
    )
    assert first.status == "hypothesis"


@pytest.mark.parametrize("seed", range(2))
def test_effects_and_their_errors_are_those_of_a_mixed_model_with_random_windows(make_lab, seed):
    mixed_linear_model = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    seen = history(flat(make_lab, law, seed=seed), replicates=range(8), models=("alpha",))
    rows = design.PLAIN.measured(list(seen.results().values()), "alpha")
    samples = {levels: result.samples() for levels, result in rows.items()}
    table = [(window, *levels, value) for levels, found in samples.items() for window, value in found.items()]
    levels = np.array([row[1:-1] for row in table])
    fitted = mixed_linear_model.MixedLM(
        np.array([row[-1] for row in table]),
        np.column_stack([np.ones(len(table)), levels]),
        groups=[f"{replicate}.{index}" for (replicate, index), *_ in table],
    ).fit(reml=True)
    ours = list(design.PLAIN.effects(rows).values())
    assert [e.mean for e in ours] == pytest.approx(list(fitted.fe_params[1:]), abs=1e-3)
    # Per window, a factor has an error of its own; the mixed model has one for all of them.
    assert [e.stderr for e in ours] == pytest.approx(list(fitted.bse_fe[1:]), rel=0.4)


def test_the_interval_covers_the_effect_as_often_as_it_says(make_lab):
    covered = 0
    for seed in range(100):
        seen = history(flat(make_lab, law, seed=seed), models=("alpha",))
        block = design.PLAIN
        rows = block.measured(list(seen.results().values()), "alpha")
        estimate = next(e for factor, e in block.effects(rows).items() if factor.name == "key-axis")
        low, high = estimate.interval()
        covered += low <= log(0.5) <= high
    assert 88 <= covered <= 100


def test_where_nothing_matters_little_is_stated(make_lab, infos):
    named = {info.name: info for info in infos}
    stated = [bool(FactorAnalyst().analyse(history(flat(make_lab, seed=seed)), named)) for seed in range(60)]
    assert sum(stated) <= 7  # 3 are expected at a family-wise error of 5%


def test_an_incomplete_design_states_nothing(make_lab, infos):
    seen = history(flat(make_lab, law))
    kept = tuple(r for r in seen.records if r.spec.kv != next(iter(design.PLAIN.rows.values())))
    assert FactorAnalyst().analyse(History(kept), {info.name: info for info in infos}) == []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_campaign_runs_the_design_on_every_model_and_confirms_what_it_shows(make_lab, infos, simulate, seed):
    run = simulate(flat(make_lab, law, seed=seed), infos, 260, seed=seed)
    designed = [r for r in run.records if r.proposer == "design"]
    assert {(r.spec.model, r.spec.replicate) for r in designed} >= {("alpha", 0), ("alpha", 1), ("beta", 0)}
    assert run.keys(f"{PER_CHANNEL}:alpha", "confirmed")
    assert not run.keys(f"{PER_CHANNEL}:beta", "confirmed")
