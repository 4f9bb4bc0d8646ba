"""What an LLM adds to a search that is replayed on the recorded table, and what it costs.

    uv run --group qwen --group llm python -m benchmarks._llm_arms --llm local:qwen2.5-coder-0.5b --out arms.jsonl
    uv run python -m benchmarks._llm_arms --page arms.jsonl

One line of JSON per replay: a run goes on where the last one ended, and lines of several models or machines can be put
together. Arms with an LLM are compared with the same arm without it, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import _frame, _llm, _replay, _table, search

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import generator
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm.endpoint import LlmSettings, local_model
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.llm.telemetry import report
from swarm.experiments.models import registry
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Proposal, TrialRecord

BUDGET = 60
SEEDS = 12
SHARE = 0.3
"""Share of trials that the LLM proposes beside TPE, as in arXiv 2603.24647."""
ROUNDS = 4_000


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
                found = self.runner.ask("proposer", context).kept
                self.waiting.extend(found.proposals if found is not None else ())
            if self.waiting:
                return self.waiting.popleft().spec
        return self.otherwise(records, attempt)

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


COLUMNS = ("arm", "LLM", "seeds", "final regret", "regret against without", "trials saved", "usable", "tokens", "s")
PLAIN: Mapping[str, Callable[[_replay.Ground, int], _replay.Strategy]] = {
    "random": _replay.Seeded,
    "TPE": _replay.Tpe,
    "agents": _replay.Swarm,
}
WITH_LLM: Mapping[str, tuple[str, Callable[[_replay.Ground, int, RoleRunner], _replay.Strategy]]] = {
    "LLM alone": ("random", Alone),
    f"TPE + {SHARE:.0%} LLM": ("TPE", BesideTpe),
    "agents + LLM": ("agents", BesideAgents),
}
"""Arms with an LLM, each with the arm that it is compared with."""


def replays(
    settings: LlmSettings, seeds: int, budget: int, done: Iterable[Mapping[str, Any]]
) -> Iterable[dict[str, Any]]:
    """Every replay that is not done yet, seed by seed."""
    name = local_model(settings) or settings.llm_model or settings.llm
    known = {(line["arm"], line["model"], line["seed"], line["budget"], line["llm"]) for line in done}
    table = _table.load()
    for seed in range(seeds):
        for model in _llm.MODELS:
            ground = _replay.Ground([registry.describe(model)], table)
            for arm in (*PLAIN, *WITH_LLM):
                llm = name if arm in WITH_LLM else ""
                if (arm, model, seed, budget, llm) in known:
                    continue
                line = {"arm": arm, "model": model, "seed": seed, "budget": budget, "llm": llm}
                began = time.perf_counter()
                if arm in PLAIN:
                    records, told = PLAIN[arm](ground, seed).run(budget), {}
                else:
                    with _llm.seated(settings) as (runner, store):
                        records = WITH_LLM[arm][1](ground, seed, runner).run(budget)
                        told = report(store, store.campaigns.get().id) or {}
                curve = search.curve_of(records, budget, model)["regret"]
                yield line | {"regret": curve, "seconds": time.perf_counter() - began, "report": told}


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """What came out, as Markdown."""
    parts = ["# Search with an LLM: what it adds, and what it costs\n", (__doc__ or "").partition("\n\n")[0] + "\n"]
    parts.append(
        "Regret in percent of the feasible box after the last trial (the table's front has none). Trials saved: how "
        "many fewer an arm takes to the final median regret of the same arm without the LLM; a seed that does not get "
        "there counts as the whole budget. Means with 95% bootstrap intervals, paired by seed.\n"
    )
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["model"], line["budget"]].append(line)
    for (model, budget), group in sorted(groups.items()):
        curves: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(dict)
        for line in group:
            curves[line["arm"], line["llm"]][line["seed"]] = line["regret"]
        rows = [_row(arm, llm, curves, group) for arm, llm in curves]
        parts.append(f"## {model}, {budget} trials\n")
        columns = (
            "arm",
            "LLM",
            "seeds",
            "final regret",
            "regret against without",
            "trials saved",
            "usable",
            "tokens",
            "s",
        )
        parts.append(_frame.table(columns, rows))
    return "\n".join(parts)


def _row(
    arm: str, llm: str, curves: Mapping[Any, Mapping[int, list[float]]], group: Sequence[Mapping[str, Any]]
) -> Any:
    mine = curves[arm, llm]
    final = np.array([curve[-1] for curve in mine.values()])
    cells = [arm, llm or "-", len(mine), f"{100 * np.median(final):.2f}"]
    if arm not in WITH_LLM:
        return [*cells, "", "", "", "", ""]
    other = curves.get((WITH_LLM[arm][0], ""), {})
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return [*cells, "", "", "", "", ""]
    goal = float(np.median([other[seed][-1] for seed in seeds]))
    gain = np.array([100 * (mine[seed][-1] - other[seed][-1]) for seed in seeds])
    saved = np.array([_trials(other[seed], goal) - _trials(mine[seed], goal) for seed in seeds], float)
    reports = [line["report"] for line in group if (line["arm"], line["llm"]) == (arm, llm)]
    answers, usable = (sum(one.get(name, 0) for one in reports) for name in ("answers", "usable"))
    tokens = sum(one.get("tokens_in", 0) + one.get("tokens_out", 0) for one in reports) / len(reports)
    seconds = sum(one.get("answers", 0) * (one.get("seconds") or 0.0) for one in reports) / len(reports)
    share = f"{usable} of {answers}" if answers else "none"
    return [*cells, _interval(gain, "+.2f"), _interval(saved, "+.1f"), share, f"{tokens:,.0f}", f"{seconds:.0f}"]


def _trials(curve: Sequence[float], goal: float) -> int:
    """Trials until the regret is no more than a goal."""
    return next((number for number, regret in enumerate(curve, 1) if regret <= goal), len(curve))


def _interval(values: np.ndarray[Any, np.dtype[np.float64]], form: str) -> str:
    draws = np.random.default_rng(0).choice(values, (ROUNDS, len(values))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none where there is no file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main() -> int:
    """Replay, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._llm_arms", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llm", default="local", help="local[:MODEL] or a URL")
    parser.add_argument("--llm-model", help="the model's name at the URL")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--budget", type=int, default=BUDGET, help="trials of a replay")
    parser.add_argument("--out", type=Path, help="where the lines are kept")
    parser.add_argument("--page", type=Path, help="run nothing: write docs/benchmarks/search_llm.md from this file")
    options = parser.parse_args()
    if options.page is not None:
        (_frame.DOCS / "search_llm.md").write_text(page(read(options.page)))
        return 0
    if options.out is None:
        parser.error("give --out")
    settings = LlmSettings(llm=options.llm, llm_model=options.llm_model, llm_tools=False)
    done = read(options.out)
    with options.out.open("a") as file:
        for line in replays(settings, options.seeds, options.budget, done):
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(
                line["arm"],
                line["model"],
                line["seed"],
                f"{line['regret'][-1]:.4f}",
                f"{line['seconds']:.0f} s",
                flush=True,
            )
    print(page(read(options.out)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
