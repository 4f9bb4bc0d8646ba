"""What roles are told fits into the room that there is, and what they may compare costs the same."""

from __future__ import annotations

import json

import pytest

from swarm.agents.analysis.pairs import MAX_BITS_APART
from swarm.agents.llm.briefing import NOTICE, brief
from swarm.agents.llm.endpoint import LOCAL_PROMPT_CHARS, LlmSettings
from swarm.agents.llm.roles.base import comparable, roles
from swarm.agents.llm.runner import RoleRunner

FENCE = len("\n\n```json\n\n```")


@pytest.fixture
def context(infos, make_lab, simulate):
    run = simulate(make_lab(), infos, 90)
    return run.strategy.context(90, run.history)


@pytest.mark.parametrize("name", sorted(roles()))
def test_what_is_told_fits_and_the_task_is_always_kept(context, name) -> None:
    role = roles()[name]
    task = role.task(context)
    least = len(json.dumps({"task": task}, ensure_ascii=False, separators=(",", ":")))
    told = {}
    for room in (least, LOCAL_PROMPT_CHARS, 4_000, 12_000, 100_000):
        text = brief(context, task, room, role.reads)
        assert len(text) <= max(room, least) + len(NOTICE) + FENCE
        told[room] = json.loads(text.partition("```json\n")[2].removesuffix("\n```"))
        assert told[room]["task"] == json.loads(json.dumps(task))
    assert set(told[least]) == {"task"}
    assert len(told[100_000]) > len(told[LOCAL_PROMPT_CHARS])


def test_lists_are_told_in_part_where_they_do_not_fit_whole(context) -> None:
    rows = {room: _best(brief(context, {}, room, ("best",))) for room in (500, 900, 100_000)}
    assert 0 < rows[500] <= 3 < rows[100_000]
    assert rows[500] <= rows[900] <= rows[100_000]


def _best(text: str) -> int:
    best = json.loads(text.partition("```json\n")[2].removesuffix("\n```")).get("best", {})
    return max(map(len, best.values()), default=0)


def test_trials_that_may_be_set_against_each_other_cost_the_same_and_differ(context) -> None:
    records = {record.id: record for record in context.history.completed}
    pairs = [
        (model, records[better], records[worse])
        for model, trials in comparable(context).items()
        for better, beaten in trials.items()
        for worse in beaten
    ]
    assert pairs
    for model, better, worse in pairs:
        bits, kld = ([r.metrics[name].value for r in (better, worse)] for name in ("bits_per_value", "kld"))
        assert {better.spec.model, worse.spec.model} == {model}
        assert abs(bits[0] - bits[1]) <= MAX_BITS_APART
        assert kld[0] < kld[1]


def test_a_campaign_waits_for_a_local_model_no_longer_than_a_small_share_of_its_time(converse) -> None:
    dialogue = converse(llm_patience=50.0)
    assert RoleRunner(dialogue).summary_wait == 50.0
    dialogue.settings = LlmSettings(llm="local", llm_patience=50.0)
    assert RoleRunner(dialogue).summary_wait < 1.0
