"""The sampler that predicts all configurations: what it predicts is right, what it expects is what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.analysis.pareto import box, hypervolume, objectives
from swarm.agents.generation.context import generator
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.samplers.gaussian_process import GaussianProcessSampler, Known, expected_gain
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.experiments.space.search_space import Space
from swarm.memory.records import Proposal


def measured(lab, space, info, count, seed=0, start=0):
    rng = generator(seed, "surrogate")
    specs = [space.random(rng, info) for _ in range(count)]
    return [lab.run(start + n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)]


def context_of(space, infos, records, model="alpha", seed=0):
    strategy = GenerationStrategy(space, AnalysisEngine(infos, AgentSettings()), seed)
    context = strategy.context(len(records), History.before(len(records), records, 0))
    return replace(context, model=model)


def predicted(context, records):
    return Known.of(context).predict([record.spec.kv for record in records])


@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_beat_the_mean_on_trials_that_were_not_seen(lab, infos, seed) -> None:
    space = Space(infos)
    records = measured(lab, space, infos[0], 160, seed)
    mean, deviation, bits = predicted(context_of(space, infos, records[:120]), records[120:])
    truth = np.array([objectives(record) for record in records[120:]])
    assert ((mean - truth[:, 0]) ** 2).mean() < 0.5 * truth[:, 0].var()
    assert ((bits - truth[:, 1]) ** 2).mean() < 0.2 * truth[:, 1].var()
    assert (np.abs(mean - truth[:, 0]) < 3 * deviation).mean() > 0.8


def test_trials_on_another_model_help_where_this_one_has_few(lab, infos) -> None:
    space = Space(infos)
    other = measured(lab, space, infos[1], 120)
    few = measured(lab, space, infos[0], 12, seed=1, start=120)
    unseen = measured(lab, space, infos[0], 60, seed=2, start=500)
    truth = np.array([objectives(record)[0] for record in unseen])
    alone = [record.model_copy(update={"number": n}) for n, record in enumerate(few)]
    errors = [
        ((predicted(context_of(space, infos, records), unseen)[0] - truth) ** 2).mean()
        for records in ([*other, *few], alone)
    ]
    assert errors[0] < errors[1]


def test_it_says_nothing_of_what_it_does_not_know_and_then_proposes_what_is_new(lab, infos) -> None:
    space = Space(infos)
    records = measured(lab, space, infos[0], 40)
    sampler = GaussianProcessSampler()
    assert sampler.propose(context_of(space, infos, records[:4])) is None
    assert sampler.propose(context_of(space, infos, records, "beta")) is None
    first, second = (sampler.propose(context_of(space, infos, records)) for _ in range(2))
    assert first == second
    assert fingerprint(first.spec) not in {record.fingerprint for record in records}
    space.params(first.spec)


def test_the_expected_gain_is_the_mean_gain_of_draws() -> None:
    settings = AgentSettings()
    known = [(-1.0, 6.0), (-0.5, 4.0), (-2.0, 12.0)]
    mean, deviation, bits = np.array([-1.0, -0.2, -3.0]), np.array([0.3, 0.1, 0.5]), np.array([5.0, 3.0, 8.0])
    found = expected_gain(known, mean, deviation, bits, settings)
    reference, _ = box(settings)
    rng = np.random.default_rng(0)
    for place in range(3):
        draws = rng.normal(mean[place], deviation[place], 2_000)
        gains = [hypervolume([*known, (v, bits[place])], reference) for v in draws]
        expected = np.mean(gains) - hypervolume(known, reference)
        assert found[place] == pytest.approx(expected, rel=0.1, abs=0.05)
