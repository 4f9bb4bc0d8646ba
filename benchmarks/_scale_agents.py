"""What the agents cost: proposals and analyses over simulated measurements, by models and layers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks import _from_tests

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments.space.search_space import Space
from swarm.memory.records import FindingRecord, TrialRecord

LAG = 8
Costs = dict[str, float]


def of_models(count: int, trials: int, seed: int) -> Costs:
    """CPU milliseconds of a proposal and of an analysis with so many models of 12 layers."""
    return _campaign([12] * count, trials, seed)


def of_layers(layers: int, trials: int, seed: int) -> Costs:
    """CPU milliseconds of a proposal and of an analysis with two models of so many layers."""
    return _campaign([layers] * 2, trials, seed)


def _campaign(layers: list[int], trials: int, seed: int) -> Costs:
    """A simulated campaign; means over its second half, when analysts have something to look at."""
    tests, in_memory = _from_tests.load("agents/conftest"), _from_tests.load("in_memory")
    infos = [tests.info(f"model-{place}", n_layers=count) for place, count in enumerate(layers)]
    lab = tests.Laboratory(seed=seed, n_layers={info.name: info.n_layers for info in infos})
    strategy = GenerationStrategy(Space(infos), AnalysisEngine(infos, AgentSettings()), seed)
    records: list[TrialRecord] = []
    findings: list[FindingRecord] = []
    spent: dict[str, list[float]] = {"proposal": [], "analysis": []}

    def timed(what: str, action: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = action()
        if len(records) >= trials // 2:
            spent[what].append(1e3 * (time.process_time() - started))
        return result

    for number in range(trials):
        history = History.before(number, records, LAG, findings)
        if strategy.engine.is_milestone(number)[0]:
            found = timed("analysis", lambda number=number, history=history: strategy.engine.analyse(number, history))
            findings = in_memory.stored(found, findings)
            history = History.before(number, records, LAG, findings)
        proposal = timed("proposal", lambda number=number, history=history: strategy.propose(number, history))
        records.append(lab.run(number, proposal))
    return {what: statistics.fmean(values) for what, values in spent.items()}
