"""LLM roles asked about campaigns replayed on the recorded table: how many of their answers are of use.

    uv run --group qwen --extra llm python -m benchmarks._llm --llm local --calls 200 --out answers.jsonl

Every question is about another replay: two models, from 20 to 240 trials, the findings of that moment. Nothing is
measured but the LLM. One line of JSON per answer, with the revision; files of several models, parts or machines can be
put together (`benchmarks._llm_page`). To go on where an earlier run ended, give its lines with `--done`, and with
`--first` a number of replays that it did not get to.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import _frame, _replay, _table

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import ProposalContext, generator
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm import factory
from swarm.agents.llm.dialogue import Dialogue
from swarm.agents.llm.endpoint import (
    LOCAL_OUTPUT_TOKENS,
    LOCAL_PROMPT_CHARS,
    LOCAL_TEMPERATURE,
    LOCAL_TIMEOUT,
    LlmSettings,
    local_model,
)
from swarm.agents.llm.retry import CallError
from swarm.agents.llm.roles.base import roles
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.settings import AgentSettings
from swarm.experiments import environment
from swarm.experiments.models import registry
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.memory.records import Budget, FindingRecord, TrialRecord
from swarm.memory.store import Store

MODELS = ("smollm2-135m", "gemma3-270m")
_ONE_AT_A_TIME = threading.Lock()
"""Alembic makes one database at a time."""

FEWEST, MOST = 20, 240
"""Trials of a replay that a question is about."""


def options(parser: argparse.ArgumentParser) -> None:
    """Which LLM is asked, and which part of the work this process does."""
    parser.add_argument("--llm", default="local", help="local[:MODEL] or a URL, which is asked as a local model is")
    parser.add_argument("--llm-model", help="the model's name at the URL")
    parser.add_argument("--name", help="what the model is called in the records")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="the K-th of N parts of the work, from 0")
    parser.add_argument("--jobs", type=int, default=1, help="questions at the same time")
    parser.add_argument("--out", type=Path, required=True, help="where the lines are kept")
    parser.add_argument("--done", type=Path, action="append", default=[], help="lines of earlier runs, also --out")


def asked(given: argparse.Namespace) -> LlmSettings:
    """The settings of a local model, wherever it runs: short prompts and answers, no tools."""
    return LlmSettings(
        llm=given.llm,
        llm_model=given.llm_model,
        llm_prompt_chars=LOCAL_PROMPT_CHARS,
        llm_output_tokens=LOCAL_OUTPUT_TOKENS,
        llm_timeout=LOCAL_TIMEOUT,
        llm_temperature=LOCAL_TEMPERATURE,
        llm_tools=False,
        llm_concurrency=1,
    )


def part(given: argparse.Namespace) -> tuple[int, int]:
    """The part of the work, and of how many."""
    place, _, parts = given.part.partition("/")
    return int(place), int(parts)


def done(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The whole lines of earlier runs and of this one's file."""
    return [line for path in (*given.done, given.out) for line in _frame.whole_lines(path)]


def revision() -> str:
    """The code that a line was recorded with."""
    return environment.git_revision()[:7]


def name_of(given: argparse.Namespace) -> str:
    """What the model is called in records."""
    return str(given.name or local_model(asked(given)) or given.llm_model or given.llm)


def _made(path: Path) -> Store:
    with _ONE_AT_A_TIME:
        return Store.open(path, create=True)


@contextmanager
def seated(settings: LlmSettings) -> Iterator[tuple[RoleRunner, Store]]:
    """An LLM's roles with a store of their own that keeps the calls; a local server ends with the block."""
    with talking(settings) as dialogue:
        runner = RoleRunner(dialogue)
        try:
            yield runner, dialogue.budget.store
        finally:
            runner.close()


@contextmanager
def talking(settings: LlmSettings) -> Iterator[Dialogue]:
    """An LLM with a store of its own that keeps its calls; a local server ends with the block."""
    with tempfile.TemporaryDirectory() as folder, _made(Path(folder) / "llm.db") as store:
        campaign = store.campaigns.create(None, {}, Budget(trials=1), 0)
        dialogue = factory.dialogue(settings, store, campaign.id)
        if dialogue is None:
            raise SystemExit("give --llm")
        try:
            yield dialogue
        finally:
            dialogue.close()


def contexts(first: int = 0, step: int = 1) -> Iterator[ProposalContext]:
    """Moments of replays with random trials, one after the other."""
    ground = _replay.Ground([registry.describe(name) for name in MODELS], _table.load())
    space, settings = Space(ground.infos, SpaceSettings(context=_table.CONTEXT)), AgentSettings()
    seed = first
    while True:
        rng = generator(seed, "llm")
        records: list[TrialRecord] = []
        known = set()
        for number in range(int(rng.integers(FEWEST, MOST))):
            info = ground.infos[number % len(ground.infos)]
            spec = ground.grid.random(rng, info)
            if (info.name, spec.kv) not in known:
                known.add((info.name, spec.kv))
                records.append(ground.record(len(records), spec, "random"))
        engine = AnalysisEngine(ground.infos, settings)
        found = engine.analyse(len(records), History.before(len(records), records, 0))
        rows = [FindingRecord(id=place, campaign_id=1, finding=one) for place, one in enumerate(found, 1)]
        history = History.before(len(records), records, 0, rows)
        yield GenerationStrategy(space, engine, seed).context(len(records), history)
        seed += step


def main() -> int:
    """Ask and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._llm", description=(__doc__ or "").splitlines()[0])
    options(parser)
    parser.add_argument("--calls", type=int, default=200, help="questions per role, over all parts")
    parser.add_argument("--roles", default=",".join(roles()), help="roles that are asked")
    parser.add_argument("--first", type=int, default=0, help="number of the first replay that is asked about")
    given = parser.parse_args()
    place, parts = part(given)
    known = Counter(line["role"] for line in done(given) if line["llm"] == name_of(given))
    left = {name: max(0, given.calls - known[name]) for name in given.roles.split(",")}
    with given.out.open("a") as out, ThreadPoolExecutor(given.jobs) as pool:

        def keep(line: Mapping[str, Any]) -> None:
            out.write(json.dumps(line) + "\n")
            out.flush()
            print(*line.values(), flush=True)

        shares = [(place * given.jobs + job, parts * given.jobs) for job in range(given.jobs)]
        list(pool.map(lambda share: ask(given, left, share, keep), shares))
    return 0


def ask(
    given: argparse.Namespace,
    questions: Mapping[str, int],
    share: tuple[int, int],
    keep: Callable[[Mapping[str, Any]], None],
) -> None:
    """Ask every role its share, the K-th of N, of so many questions."""
    place, parts = share
    left = {name: len(range(place, count, parts)) for name, count in questions.items()}
    moments = contexts(given.first + place, parts)
    with seated(asked(given)) as (runner, store):
        while wanted := [name for name, count in left.items() if count]:
            context = next(moments)
            for name in wanted:
                if roles()[name].choices(context, 1) is None:
                    continue
                before = runner.tokens_cached
                try:
                    reasons = runner.ask(name, context).reasons
                except CallError as error:
                    reasons = (error.problem,)
                left[name] -= 1
                call = store.agent_calls.list()[-1]
                keep(
                    {
                        "llm": name_of(given),
                        "revision": revision(),
                        "role": name,
                        "outcome": call.outcome,
                        "tokens_in": call.tokens_in,
                        "tokens_cached": runner.tokens_cached - before,
                        "tokens_out": call.tokens_out,
                        "seconds": round(call.seconds, 2),
                        "reasons": "; ".join(reasons)[:160],
                    }
                )


if __name__ == "__main__":
    raise SystemExit(main())
