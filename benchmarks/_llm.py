"""LLM roles asked about campaigns replayed on the recorded table: how many of their answers are of use.

    uv run --group qwen --extra llm python -m benchmarks._llm --llm local --calls 200

Every question is about another replay: two models, from 20 to 120 trials, the findings of that moment. Nothing is
measured but the LLM.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import _replay, _table

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import ProposalContext, generator
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm import factory
from swarm.agents.llm.endpoint import LlmSettings
from swarm.agents.llm.roles.base import roles
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.llm.telemetry import report
from swarm.agents.settings import AgentSettings
from swarm.experiments.models import registry
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.memory.records import Budget, FindingRecord, TrialRecord
from swarm.memory.store import Store

MODELS = ("smollm2-135m", "gemma3-270m")
FEWEST, MOST = 20, 120
"""Trials of a replay that a question is about."""


@contextmanager
def seated(settings: LlmSettings) -> Iterator[tuple[RoleRunner, Store]]:
    """An LLM with a store of its own that keeps its calls; a local server ends with the block."""
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "llm.db", create=True) as store:
        campaign = store.campaigns.create(None, {}, Budget(trials=1), 0)
        runner = factory.create(settings, store, campaign.id)
        if runner is None:
            raise SystemExit("give --llm")
        try:
            yield runner, store
        finally:
            runner.close()


def contexts() -> Iterator[ProposalContext]:
    """Moments of replays with random trials, one after the other."""
    ground = _replay.Ground([registry.describe(name) for name in MODELS], _table.load())
    space, settings = Space(ground.infos, SpaceSettings(context=_table.CONTEXT)), AgentSettings()
    seed = 0
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
        seed += 1


def main() -> int:
    """Ask and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._llm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llm", default="local", help="local[:MODEL] or a URL")
    parser.add_argument("--llm-model", help="the model's name at the URL")
    parser.add_argument("--calls", type=int, default=200, help="questions per role")
    parser.add_argument("--roles", default=",".join(roles()), help="roles that are asked")
    parser.add_argument("--as-local", action="store_true", help="short prompts and answers, as a local model gets")
    options = parser.parse_args()
    short: dict[str, Any] = {"llm_prompt_chars": 1_700, "llm_output_tokens": 200, "llm_tools": False}
    settings = LlmSettings(llm=options.llm, llm_model=options.llm_model, **(short if options.as_local else {}))
    asked = dict.fromkeys(options.roles.split(","), 0)
    with seated(settings) as (runner, store):
        for context in contexts():
            wanted = [name for name, count in asked.items() if count < options.calls]
            if not wanted:
                break
            for name in wanted:
                if roles()[name].choices(context, 1) is None:
                    continue
                used = runner.ask(name, context)
                asked[name] += 1
                call = store.agent_calls.list()[-1]
                print(
                    f"{name} {asked[name]}: {call.outcome}, {call.tokens_in} + {call.tokens_out} tokens, "
                    f"{call.seconds:.1f} s; {'; '.join(used.reasons)[:200]}",
                    flush=True,
                )
        told = report(store, store.campaigns.get().id) or {}
        seconds = [call.seconds for call in store.agent_calls.list()]
    told["median_seconds"] = float(np.median(seconds)) if seconds else None
    print(json.dumps(told, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
