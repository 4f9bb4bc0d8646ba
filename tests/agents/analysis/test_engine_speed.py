"""Which flags of an engine are chosen from noisy clocks and what is measured again, where the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from swarm.agents.analysis import engine_speed
from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.nodes.finalist import FinalistNode
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.agents.writing import flags as written
from swarm.experiments.engines.run.startable import startable
from swarm.experiments.identity import fingerprint
from swarm.experiments.models import registry
from swarm.experiments.space.engine_space import EngineSpace
from swarm.experiments.spec import Metric, TrialSpec
from swarm.memory.records import TrialRecord

MODEL = "smollm2-135m"
SETTINGS = AgentSettings(max_kld=0.05)
SEEDS = range(24)
FLAGS, AGAIN = 20, 5
"""Flags that a search tried once each, and finalists that it had."""


@pytest.fixture(scope="module")
def space() -> EngineSpace:
    return EngineSpace(startable("llama.cpp"), [registry.describe(MODEL)])


def measured(number: int, spec: TrialSpec, seconds: float, kld: float = 0.01) -> TrialRecord:
    """A trial that found both rates such that a request takes so many times one second."""
    values = {"decode_rate": 256 / seconds, "prefill_rate": 2 * spec.context / seconds, "memory": 2e8, "kld_upper": kld}
    metrics = {name: Metric.of(name, value, "") for name, value in values.items()}
    return TrialRecord(
        id=number + 1, number=number, campaign_id=1, spec=spec, fingerprint=fingerprint(spec), state="complete",
        outcome="ok", proposer="test", arm="agents", rationale="", metrics=metrics,
    )  # fmt: skip


class Search:
    """A search among random flags, each tried once, and its finalists."""

    def __init__(self, space: EngineSpace, seed: int, truth: Callable[[int], float], noise: float) -> None:
        """`truth` gives the logarithm of the seconds of the i-th flags; those of the engine as it comes are 1."""
        rng = np.random.default_rng(seed)
        info = space.models[MODEL]
        random = (space.random(rng, info) for _ in range(10 * FLAGS))
        specs = [s for s in dict.fromkeys(random) if s.engine is not None and s.engine.flags][:FLAGS]
        self.truth = {spec.label: truth(i) for i, spec in enumerate(specs)} | {"llama.cpp": 0.0}
        self.records: list[TrialRecord] = []

        def measure(spec: TrialSpec) -> None:
            seconds = exp(self.truth[spec.label] + rng.normal(0, noise))
            self.records.append(measured(len(self.records), spec, seconds))

        for spec in (space.defaults(info)[0], *specs):
            measure(spec)
        strategy = GenerationStrategy(space, AnalysisEngine([info], SETTINGS), seed)
        for number in range(len(self.records), len(self.records) + AGAIN):
            context = strategy.context(number, History.before(number, self.records, 0))
            proposal = FinalistNode().propose(replace(context, model=MODEL))
            if proposal is None:
                break
            measure(proposal.spec)
        self.best = engine_speed.best(self.records, SETTINGS)

    def lost(self, label: str) -> float:
        """By how much the logarithm of the seconds of some flags is above the least one, in truth."""
        return self.truth[label] - min(self.truth.values())


def slower(seed: int) -> Callable[[int], float]:
    """Flags up to 30% slower than the engine as it comes."""
    drawn = np.random.default_rng([seed, 1]).uniform(0, 0.3, FLAGS)
    return lambda i: float(drawn[i])


def test_where_the_engine_as_it_comes_is_best_the_choice_is_within_a_few_percent(space):
    chosen, quickest = [], []
    for seed in SEEDS:
        search = Search(space, seed, slower(seed), 0.15)
        chosen.append(search.lost(search.best[0].spec.label))
        once = search.records[: FLAGS + 1]
        quickest.append(search.lost(min(once, key=engine_speed.request_seconds).spec.label))
    assert np.mean(chosen) < 0.05
    assert np.mean(chosen) < np.mean(quickest)


def test_flags_that_are_30_percent_quicker_are_found(space):
    found = []
    for seed in SEEDS:
        others = slower(seed)
        search = Search(space, seed, lambda i, others=others: log(0.7) if i == 5 else others(i), 0.15)
        found.append(search.lost(search.best[0].spec.label) == 0)
    assert np.mean(found) >= 0.8


def test_flags_that_are_no_quicker_are_seldom_called_so(space):
    called = []
    for seed in SEEDS:
        search = Search(space, seed, lambda _: 0.0, 0.15)
        called.append(engine_speed.is_quicker(search.records, search.best[0].spec.label, "llama.cpp"))
        assert len(engine_speed.by_flags(search.records)["llama.cpp"]) > 1
    assert np.mean(called) <= 0.1


def test_a_difference_that_is_clear_is_not_measured_over_and_over(space):
    search = Search(space, 0, lambda i: -0.5 if i == 3 else 0.1 * i, 0.01)
    assert search.lost(search.best[0].spec.label) == 0
    assert max(len(found) for found in engine_speed.by_flags(search.records).values()) == 2


def test_one_lucky_measurement_does_not_lead_and_doubt_shrinks_with_measurements():
    seconds = {"lucky": [0.7], "steady": [1.0, 1.02, 0.98], "twice": [1.1, 1.3]}
    known = engine_speed.estimates(seconds, plain="steady")
    assert engine_speed.ranked(known) == ["steady", "lucky", "twice"]
    assert known["lucky"].stderr == pytest.approx(known["steady"].stderr * 3**0.5)
    assert engine_speed.ranked(engine_speed.estimates({"b": [2.0], "a": [2.0], "c": [1.0]})) == ["c", "b", "a"]


def test_the_first_measurement_by_which_flags_were_picked_is_left_out_but_for_the_engine_as_it_comes():
    known = engine_speed.estimates({"plain": [1.3, 1.0], "picked": [0.7, 1.1], "once": [1.2]}, plain="plain")
    assert {name: exp(one.mean) for name, one in known.items()} == pytest.approx(
        {"plain": 1.3**0.5, "picked": 1.1, "once": 1.2}
    )
    assert known["picked"].stderr == known["once"].stderr > known["plain"].stderr


def test_flags_that_broke_the_limit_once_are_out(space):
    plain, *_, other = space.defaults(space.models[MODEL])
    again = other.model_copy(update={"replicate": 1})
    records = [measured(0, plain, 1.0), measured(1, other, 0.5), measured(2, again, 0.5, kld=0.06)]
    assert [record.id for record in engine_speed.best(records, SETTINGS)] == [1]
    assert [record.id for record in engine_speed.best(records[:2], SETTINGS)] == [2, 1]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ((1.0, 0.5, 1.0, 0.51, 1.01, 0.49), ""),
        ((1.0, 0.7, 1.0, 1.0, 1.0, 0.8), "is not sure"),
        ((1.0, 1.3, 1.0, 1.2, 1.0, 1.3), "No flags that were tried are surely quicker"),
    ],
)
def test_the_summary_says_where_nothing_is_surely_quicker(space, seconds, said):
    specs = space.defaults(space.models[MODEL])[:2]
    specs = [s.model_copy(update={"replicate": k}) for k in range(3) for s in specs]
    records = tuple(measured(i, spec, took) for i, (spec, took) in enumerate(zip(specs, seconds, strict=True)))
    (line,) = written.advice([MODEL], History(records), SETTINGS)
    assert said in line
    assert ("sure" in line) == bool(said)
