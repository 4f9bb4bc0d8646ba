"""What contestants over the same configurations are asked and answer, and our way to decide: a campaign's two rungs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.agents.analysis import pareto, results
from swarm.agents.generation.context import generator
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import Measurement, TrialSpec
    from swarm.memory.records import TrialRecord

FIRST_RUNG = ("default", "quality", "random_search", "tpe")
"""Kinds of turns in a campaign that measure a new configuration on the cheap rung."""


@dataclass(frozen=True)
class Answer:
    """What one measurement said; None and nothing where the run broke down."""

    kld: float | None
    same_top1: float
    bits: float
    windows: list[float]

    @classmethod
    def none(cls) -> Answer:
        """No measurement."""
        return cls(None, 0.0, 0.0, [])

    @classmethod
    def of(cls, found: Measurement) -> Answer:
        """What a trial measured."""
        windows = list(found.arrays["window_kld"])
        return cls(found["kld"], found["same_top1"], found["bits_per_value"], windows)


@dataclass
class Laps:
    """Wall and CPU seconds of getting ready, and of each configuration after it."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    ready_wall: float = 0.0
    ready_cpu: float = 0.0

    def __post_init__(self) -> None:
        self._last = (time.perf_counter(), time.process_time())

    def ready(self) -> None:
        """Everything that is done once is done."""
        self.ready_wall, self.ready_cpu = self._since()

    def lap(self) -> None:
        """A configuration is decided."""
        wall, cpu = self._since()
        self.wall.append(wall)
        self.cpu.append(cpu)

    def _since(self) -> tuple[float, float]:
        now = (time.perf_counter(), time.process_time())
        passed = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return passed


def configurations(info: ModelInfo, count: int, seed: int) -> list[KVSpec]:
    """The campaign's default configurations, then random ones of its search space, each once.

    Only what a campaign may promote counts (at most so many bits/value), and no learned scaling: fitting it costs
    everybody the same.
    """
    from swarm.experiments.space.search_space import Space

    space, rng = Space([info]), generator(seed, "trials", info.name)
    found: dict[KVSpec, None] = {}
    waiting = space.defaults(info)
    while len(found) < count:
        spec = waiting.pop(0) if waiting else space.random(rng, info)
        if _counts(spec, info):
            found[spec.kv] = None
    return list(found)


def _counts(spec: TrialSpec, info: ModelInfo) -> bool:
    layers = range(info.n_layers) if spec.layers is None else spec.layers
    kvs = [spec.kv.at(layer) for layer in layers]
    if spec.kv == KVSpec() or any(side.scaling == "learned" for kv in kvs for side in (kv.key, kv.value)):
        return False
    stored = sum(_bits(kv, info.head_dim) for kv in kvs) + 16.0 * (info.n_layers - len(kvs))
    return stored / info.n_layers <= AgentSettings().max_bits


def _bits(kv: KVSpec, head_dim: int) -> float:
    from swarm.kernels.quantizers import base

    return sum(base.build(side, head_dim).bits_per_value() for side in (kv.key, kv.value)) / 2


class Swarm:
    """Our way, in one process: rung 0 for every configuration, rung 1 for some at a campaign's own turns.

    Turns, promotion and measurement are a campaign's own code; the store and the workers' driver are left out (see
    the benchmark `overhead`).
    """

    def __init__(self, info: ModelInfo, context: int, folder: Path) -> None:
        from swarm.agents.analysis.engine import AnalysisEngine
        from swarm.agents.generation.nodes.base import nodes
        from swarm.agents.generation.strategy import GenerationStrategy
        from swarm.experiments.measurement.runner import Runner
        from swarm.experiments.space.search_space import Space, SpaceSettings

        self.runner = Runner(cache_dir=folder, threads=1)
        self.info = info
        space = Space([info], SpaceSettings(context=context), corpus_digest=self.runner.corpus.digest)
        self.template = space.defaults(info)[0]
        self.strategy = GenerationStrategy(space, AnalysisEngine([info], AgentSettings()), 0)
        self.promotion = nodes()["promotion"]
        self.records: list[TrialRecord] = []
        self.seconds: dict[str, list[float]] = {"rung 0": [], "rung 1": []}

    def decide(self, wanted: Sequence[KVSpec], laps: Laps) -> tuple[list[Answer], dict[int, Answer]]:
        """Answers of rung 0 for all, and of rung 1 for those promoted, by place."""
        for rung in range(2):
            self.runner.prepare(self.template.model_copy(update={"rung": rung}))
        laps.ready()
        cheap: list[Answer] = []
        promoted: dict[int, Answer] = {}
        places = {configuration: place for place, configuration in enumerate(wanted)}
        turn = 0
        while len(cheap) < len(wanted):
            _, kind, _, _ = self.strategy.schedule.at(turn)
            turn += 1
            if kind in FIRST_RUNG:
                cheap.append(self._run(self.template.model_copy(update={"kv": wanted[len(cheap)]})))
                laps.lap()
            elif kind == self.promotion.name:
                history = History.before(len(self.records), self.records, lag=0)
                proposal = self.promotion.propose(self.strategy.context(len(self.records), history))
                if proposal is not None:
                    promoted[places[proposal.spec.kv]] = self._run(proposal.spec)
        return cheap, promoted

    def full(self, wanted: Sequence[KVSpec], laps: Laps) -> list[Answer]:
        """Answers of rung 1 for all: the work of the careful loop, by our code."""
        self.runner.prepare(self.template.model_copy(update={"rung": 1}))
        laps.ready()
        answers = []
        for kv in wanted:
            answers.append(self._run(self.template.model_copy(update={"kv": kv, "rung": 1})))
            laps.lap()
        return answers

    def order(self, wanted: Sequence[KVSpec]) -> list[int]:
        """Places of all configurations that ended well, in the order of the cheap rung: by Pareto rank, then by KLD."""
        found = [result for result in results.pool(self.records).values() if result.spec.rung == 0]
        places = {configuration: place for place, configuration in enumerate(wanted)}
        ranked = sorted(zip(pareto.ranks(found), found, strict=True), key=lambda entry: (entry[0], entry[1].level))
        return [places[result.spec.kv] for _, result in ranked]

    def _run(self, spec: TrialSpec) -> Answer:
        from swarm.kernels.errors import TrialError
        from swarm.memory.records import TrialRecord

        began = time.perf_counter()
        common: dict[str, Any] = {
            "id": len(self.records) + 1,
            "number": len(self.records),
            "campaign_id": 1,
            "fingerprint": fingerprint(spec),
            "spec": spec,
            "arm": "agents",
            "proposer": "drawn",
        }
        try:
            found = self.runner.run(spec)
        except TrialError as error:
            self.records.append(TrialRecord(**common, state="failed", outcome=error.outcome))
            answer = Answer.none()
        else:
            metrics = {metric.name: metric for metric in found.metrics}
            record = TrialRecord(**common, state="complete", outcome="ok", metrics=metrics, arrays=found.arrays)
            self.records.append(record)
            answer = Answer.of(found)
        self.seconds[f"rung {spec.rung}"].append(time.perf_counter() - began)
        return answer


def full_fidelity(info: ModelInfo, configurations: Sequence[KVSpec], context: int, laps: Laps) -> list[Answer]:
    """Ours without the cheap rung."""
    with tempfile.TemporaryDirectory() as folder:
        return Swarm(info, context, Path(folder)).full(configurations, laps)


def plain(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Answers as a record keeps them."""
    return [asdict(answer) for answer in answers]
