"""What an LLM adds to the built-in summaries of real campaigns: the sentences that stand, and why others do not.

    uv run --group qwen --group llm python -m benchmarks._llm_scribe swarm.db other.db --llm local --out scribe.jsonl

One line of JSON per store and LLM, shown by `benchmarks._llm_page`. The stores are only read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import _llm

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.llm.retry import CallError
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.references import Resolver
from swarm.agents.writing.summary import body
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.memory.store import Store
from swarm.orchestrator.views.source import Source, stored_models

ROUNDS = 3
"""Questions per store: what stands of any answer counts."""


def beside(path: Path, runner: RoleRunner) -> Mapping[str, Any]:
    """The built-in text of a campaign's summary, and what the LLM's answers add to it."""
    with Store.open(path, readonly=True) as store:
        campaign = store.campaigns.list()[-1]
        history = Source(store, campaign).history
        known = stored_models(store)
    infos, settings = [known[name] for name in campaign.settings["models"]], AgentSettings()
    engine = AnalysisEngine(infos, settings)
    context = campaign.settings["context"]
    strategy = GenerationStrategy(Space(infos, SpaceSettings(context=context)), engine, campaign.seed)
    moment = strategy.context(len(history.records), history)
    resolver = Resolver(history, settings)
    kept: dict[str, None] = {}
    refused: list[str] = []
    for _ in range(ROUNDS):
        try:
            used = runner.ask("scribe", moment)
        except CallError as error:
            refused.append(error.problem)
            continue
        kept |= dict.fromkeys([resolver.render(used.kept.text)] if used.kept is not None else ())
        refused += used.reasons
    built_in = resolver.render(body(engine.summarise(history).text))
    return {
        "campaign": f"{campaign.name}, {len(history.records)} trials",
        "built_in": built_in,
        "kept": list(kept),
        "refused": refused,
    }


def main() -> int:
    """Ask and keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks._llm_scribe", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("stores", nargs="+", type=Path)
    _llm.options(parser)
    given = parser.parse_args()
    with _llm.seated(_llm.asked(given)) as (runner, _), given.out.open("a") as out:
        for path in given.stores:
            out.write(json.dumps({"llm": _llm.name_of(given), **beside(path, runner)}) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
