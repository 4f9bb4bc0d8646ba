"""How often an LLM names the cause that was planted in a twin, against chance and against the built-in analysts.

    uv run --group qwen --extra llm python -m benchmarks._llm_twins --llm local --out twins.jsonl

The trials are those of `benchmarks._twins_rows`. A question is about one contrast between a model and its twin, found
by the built-in analyst: the cross-referencer is shown these two configurations on both models and what captures show.
As nothing else differs between the two, the cause of every contrast is what was planted. One line of JSON per answer;
a run goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import _llm, _planted, _twins_rows

from swarm.agents.analysis.analysts.contrast import ContrastAnalyst
from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm.briefing import brief
from swarm.agents.llm.dialogue import Dialogue, Used
from swarm.agents.llm.prompts import prompt
from swarm.agents.llm.retry import CallError
from swarm.agents.llm.roles.base import CAUSES, Role, roles
from swarm.agents.llm.roles.cross_referencer import Questions
from swarm.agents.settings import AgentSettings
from swarm.experiments.models import registry
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.memory.records import TrialRecord

TIMES = 6
"""How often each contrast is asked about: answers are drawn at a temperature."""


def contrasts(twin: Mapping[str, Any], info: ModelInfo) -> Iterator[tuple[str, ProposalContext]]:
    """The contrasts of a twin by their keys, each with the moment at which only its trials and captures are known."""
    infos = [info, info.model_copy(update={"name": _planted.TWIN})]
    records = [TrialRecord.model_validate(record) for record in twin["records"]]
    looks = {record.id for record in records if record.spec.protocol == "attention"}
    space, settings = Space(infos, SpaceSettings(context=twin["context"])), AgentSettings()
    whole = History(tuple(records))
    for finding in ContrastAnalyst().analyse(whole, {one.name: one for one in infos}):
        known = looks | set(finding.evidence)
        history = History(tuple(record for record in records if record.id in known))
        strategy = GenerationStrategy(space, AnalysisEngine(infos, settings), twin["seed"])
        yield finding.key, strategy.context(len(records), history)


def named(dialogue: Dialogue, role: Role[Questions], context: ProposalContext) -> str:
    """The first cause that a role names; empty where it names none.

    Raises:
        CallError: the endpoint gave no answer.
    """
    text = brief(context, role.task(context), dialogue.room, role.reads)

    def first(answer: Questions) -> Used[str]:
        return Used(next((one.cause for one in answer.questions if one.cause in CAUSES), None), judged=True)

    schema = role.schema(context, dialogue.settings.output_tokens)
    return dialogue.ask(prompt(role.name), text, role.answer, first, schema).kept or ""


def main() -> int:
    """Ask and tell."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks._llm_twins", description=(__doc__ or "").splitlines()[0]
    )
    _llm.options(parser)
    parser.add_argument("--folder", type=Path, help="rows of `benchmarks._twins_rows`; default: the shipped ones")
    parser.add_argument("--times", type=int, default=TIMES, help="answers per contrast")
    given = parser.parse_args()
    place, parts = _llm.part(given)
    study, name, role = _twins_rows.STUDY, _llm.name_of(given), roles()["cross_referencer"]
    rows = study.made(given.folder) if given.folder else study.load()["rows"]
    done = {(line["llm"], line["seed"], line["contrast"], line["time"]) for line in _llm.done(given)}
    asked = [
        (twin, key, context, time)
        for twin in sorted(rows, key=lambda row: row["seed"])[place::parts]
        for key, context in contrasts(twin, registry.describe(twin["base"]))
        if role.choices(context, 1) is not None
        for time in range(given.times)
        if (name, twin["seed"], key, time) not in done
    ]
    with (
        _llm.talking(_llm.asked(given)) as dialogue,
        given.out.open("a") as out,
        ThreadPoolExecutor(given.jobs) as pool,
    ):

        def ask(question: tuple[Mapping[str, Any], str, ProposalContext, int]) -> None:
            twin, key, context, time = question
            about = {field: twin[field] for field in ("seed", "base", "planted", "cause", "suspected", "tested")}
            said = {"llm": name, "revision": _llm.revision(), "contrast": key, "time": time, "offered": len(CAUSES)}
            try:
                said["named"] = named(dialogue, role, context)
            except CallError as error:  # is asked again by the next run
                print(error.problem, flush=True)
                return
            out.write(json.dumps(about | said) + "\n")
            out.flush()
            print(*about.values(), *said.values(), flush=True)

        list(pool.map(ask, asked))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
