"""What an LLM adds to a search that is replayed on the recorded table, and what it costs.

    uv run --group qwen --group llm python -m benchmarks._llm_arms --llm local:qwen2.5-coder-0.5b --out arms.jsonl

One line of JSON per replay, with the revision: a run goes on where the last one ended (or those whose lines `--done`
gives), and files of several models, parts or machines can be put together (`benchmarks._llm_page`). Arms with an LLM
are compared with arms without one, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import Any

from benchmarks import _llm, _replay, _table, search

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import ProposalContext, generator
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm.endpoint import LlmSettings
from swarm.agents.llm.retry import CallError
from swarm.agents.llm.roles.proposer import untried
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.llm.telemetry import report
from swarm.experiments.models import registry
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal, TrialRecord

BUDGET = 60
SEEDS = 12
SHARE = 0.3
"""Share of trials that the LLM proposes beside TPE, as in arXiv 2603.24647."""


class Listed(_replay.Seeded):
    """The first of the untried configurations that the proposer is told of, without any LLM that chooses."""

    def __init__(self, ground: _replay.Ground, seed: int) -> None:
        super().__init__(ground, seed)
        self.strategy = GenerationStrategy(self.grid, AnalysisEngine(ground.infos, _replay.SETTINGS), seed)

    def suggest(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:
        """What stands first in the list; a random configuration where nothing does."""
        context = self.strategy.context(len(records), History.before(len(records), records, lag=0))
        labels = untried(context, self.info.name) if not attempt else []
        spec = context.trial(KVSpec.parse(labels[0]), self.info.name) if labels else None
        return spec or super().suggest(records, attempt)


class Alone(_replay.Tpe):
    """The LLM's proposals after the defaults; where it has none that is new, a random configuration."""

    share = 1.0

    def __init__(self, ground: _replay.Ground, seed: int, runner: RoleRunner) -> None:
        super().__init__(ground, seed)
        self.runner = runner
        self.strategy = GenerationStrategy(self.grid, AnalysisEngine(ground.infos, _replay.SETTINGS), seed)
        self.waiting: deque[Proposal] = deque()
        self.turns = generator(seed, "llm turns")

    def suggest(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:
        """The LLM's next proposal at its turns."""
        if not attempt and self.turns.random() < self.share:
            if not self.waiting:
                context = self.strategy.context(len(records), History.before(len(records), records, lag=0))
                self.waiting.extend(self._proposals(context))
            if self.waiting:
                return self.waiting.popleft().spec
        return self.otherwise(records, attempt)

    def _proposals(self, context: ProposalContext) -> Sequence[Proposal]:
        try:
            found = self.runner.ask("proposer", context).kept
        except CallError:  # it counts as an answer of which nothing could be kept
            return ()
        return found.proposals if found is not None else ()

    def otherwise(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:  # noqa: ARG002
        """What is tried at other turns."""
        return self.grid.random(self.rng, self.info)


class BesideTpe(Alone):
    """TPE, and the LLM at a share of the turns."""

    share = SHARE

    def otherwise(self, records: Sequence[TrialRecord], attempt: int) -> TrialSpec:
        """What TPE says."""
        return _replay.Tpe.suggest(self, records, attempt)


class BesideAgents(_replay.Strategy):
    """The built-in agents with the LLM's roles beside them; its turns are drawn by credit, as in a campaign."""

    def __init__(self, ground: _replay.Ground, seed: int, runner: RoleRunner) -> None:
        super().__init__(ground, seed)
        self.runner = runner
        engine = AnalysisEngine(ground.infos, _replay.SETTINGS, claimed=runner.findings)
        self.strategy = GenerationStrategy(self.grid, engine, seed, llm=runner)

    def ask(self, records: Sequence[TrialRecord]) -> TrialSpec:
        """The strategy's proposal, once the roles have answered."""
        found = self.strategy.propose(len(records), History.before(len(records), records, lag=0)).spec
        self.runner.settle()
        return found


PLAIN: Mapping[str, Callable[[_replay.Ground, int], _replay.Strategy]] = {
    "random": _replay.Seeded,
    "TPE": _replay.Tpe,
    "agents": _replay.Swarm,
    "first untried": Listed,
}
WITH_LLM: Mapping[str, tuple[tuple[str, ...], Callable[[_replay.Ground, int, RoleRunner], _replay.Strategy]]] = {
    f"TPE + {SHARE:.0%} LLM": (("TPE",), BesideTpe),
    "agents + LLM": (("agents",), BesideAgents),
    "LLM alone": (("random", "first untried", "TPE"), Alone),
}
"""Arms with an LLM, each with those that it is compared with."""

Job = tuple[str, int, str]
"""A replay: arm, seed and model."""


def replays(
    settings: LlmSettings, name: str, jobs: Iterable[Job], budget: int, done: Iterable[Mapping[str, Any]]
) -> Iterable[dict[str, Any]]:
    """Those of the replays that are not done yet; `name` is what the LLM is called."""
    known = {(line["arm"], line["model"], line["seed"], line["budget"], line["llm"]) for line in done}
    for arm, seed, model in jobs:
        ground = _ground(model)
        llm = name if arm in WITH_LLM else ""
        if (arm, model, seed, budget, llm) in known:
            continue
        line = {"arm": arm, "model": model, "seed": seed, "budget": budget, "llm": llm, "revision": _llm.revision()}
        began = time.perf_counter()
        if arm in PLAIN:
            records, told = PLAIN[arm](ground, seed).run(budget), {}
        else:
            with _llm.seated(settings) as (runner, store):
                records = WITH_LLM[arm][1](ground, seed, runner).run(budget)
                told = report(store, store.campaigns.get().id) or {}
        curve = search.curve_of(records, budget, model)["regret"]
        yield line | {"regret": curve, "seconds": time.perf_counter() - began, "report": told}


@cache
def _ground(model: str) -> _replay.Ground:
    return _replay.Ground([registry.describe(model)], _table.load())


def main() -> int:
    """Replay and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._llm_arms", description=(__doc__ or "").splitlines()[0])
    _llm.options(parser)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds, over all parts")
    parser.add_argument("--budget", type=int, default=BUDGET, help="trials of a replay")
    given = parser.parse_args()
    place, parts = _llm.part(given)
    pairs, done = list(product(range(given.seeds), _llm.MODELS))[place::parts], _llm.done(given)
    # All arms are replayed with a seed before the next one: what is left of a run that is cut short can be compared.
    jobs = [(arm, *pair) for pair in pairs for arm in (*PLAIN, *WITH_LLM)]
    for _, model in pairs:
        _ground(model)  # read once, before several threads want it
    with given.out.open("a") as file, ThreadPoolExecutor(given.jobs) as pool:

        def replay(job: Job) -> None:
            for line in replays(_llm.asked(given), _llm.name_of(given), [job], given.budget, done):
                file.write(json.dumps(line) + "\n")
                file.flush()
                regret, seconds = f"{line['regret'][-1]:.4f}", f"{line['seconds']:.0f} s"
                print(line["arm"], line["model"], line["seed"], regret, seconds, flush=True)

        list(pool.map(replay, jobs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
