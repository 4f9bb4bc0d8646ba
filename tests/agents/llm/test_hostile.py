"""Servers that mean harm: what they send is bounded, what they are told goes nowhere else, and nothing escapes."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc

import pytest
from llm_server import completion, serving
from pydantic import BaseModel

from swarm.agents.llm import retry, transport
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.prompts import Prompt
from swarm.agents.llm.retry import CallError

PROMPT = Prompt("proposer", 1, "You are a test.")
KEY = "sk-very-secret"


class Thing(BaseModel):
    name: str
    size: int


GOOD = json.dumps({"name": "x", "size": 3})


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(retry, "BASE_DELAY", 0.01)


def ask(dialogue):
    return dialogue.ask(PROMPT, "data", Thing, Used)


def calls(store):
    return store.agent_calls.list()


def reserved(store, dialogue) -> float:
    return sum(account.reserved for account in store.ledger.totals(dialogue.budget.campaign_id).values())


def tool_calls(name: str, arguments: str, count: int = 1):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}

    def behave(handler, body) -> None:
        handler.send_json(completion("", tool_calls=[{"id": f"c{i}", **call} for i in range(count)]))

    return behave


def usage(text: str = GOOD, **counts: object):
    def behave(handler, body) -> None:
        handler.send_json(completion(text) | {"usage": counts})

    return behave


def redirects(target: str):
    def behave(handler, body) -> None:
        handler.send_bytes(b"", 307, {"location": target})

    return behave


def test_a_redirect_takes_neither_prompt_nor_key_elsewhere(server, store, converse) -> None:
    with serving() as other:
        server.plan = [redirects(f"{other.url}/chat/completions?{KEY}")]
        dialogue = converse(key=KEY)
        with pytest.raises(CallError, match="redirects to") as caught:
            ask(dialogue)
        assert other.bodies == []
    assert caught.value.fatal
    assert len(server.bodies) == 1
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("code", [400, 429, 500])
def test_a_key_that_the_server_repeats_is_stored_and_shown_nowhere(server, store, converse, acts, code) -> None:
    server.plan = [acts.status(code, message=f"what is {KEY}?")]
    with pytest.raises(CallError) as caught:
        ask(converse(key=KEY))
    assert KEY not in f"{caught.value} {calls(store)}"


@pytest.mark.parametrize("error", ["still loading", {"message": "still loading", "code": 503}])
def test_an_error_that_is_sent_as_a_success_shows_its_reason(server, store, converse, error) -> None:
    server.plan = [lambda handler, body: handler.send_bytes(json.dumps({"error": error}).encode())]
    with pytest.raises(CallError, match="still loading"):
        ask(converse(llm_attempts=1))


def test_a_key_in_an_answer_is_not_kept(server, store, converse, acts) -> None:
    server.plan = [acts.says(json.dumps({"name": KEY, "size": 3}))]
    assert ask(converse(key=KEY)).kept == Thing(name="[key]", size=3)


def test_compressed_answers_are_not_unfolded(server, store, converse) -> None:
    bomb = gzip.compress(b" " * 64_000_000)
    server.plan = [lambda handler, body: handler.send_bytes(bomb, 200, {"content-encoding": "gzip"})]
    dialogue = converse(llm_attempts=1)
    tracemalloc.start()
    try:
        with pytest.raises(CallError, match="compresses"):
            ask(dialogue)
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()
    assert [call.outcome for call in calls(store)] == ["garbled"]
    assert server.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("code", [200, 500])
def test_answers_of_any_length_are_not_read_to_their_end(server, store, converse, monkeypatch, code) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 100_000)
    server.plan = [lambda handler, body: handler.send_bytes(b" " * 10_000_000 + b"{}", code)]
    with pytest.raises(CallError, match="longer than") as caught:
        ask(converse(llm_attempts=1, llm_timeout=20.0))
    assert caught.value.outcome == "garbled"


def test_an_answer_that_drips_is_cut_off(server, store, converse) -> None:
    def drips(handler, body) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                break
            time.sleep(0.1)
        handler.close_connection = True

    server.plan = [drips]
    with pytest.raises(CallError) as caught:
        ask(converse(llm_attempts=1, llm_timeout=0.5))
    assert caught.value.outcome == "timeout"


@pytest.mark.parametrize(
    "behave",
    [
        tool_calls("query", "[" * 100_000),
        tool_calls("query", json.dumps({"sql": "SELECT 1 --" + "x" * 500_000})),
        tool_calls("rm -rf \x1b[2J" + "q" * 500_000, '{"sql": "SELECT 1"}'),
        tool_calls("query\ud800", '{"sql": "SELECT \ud800"}'),
        tool_calls("query", '{"sql": "SELECT 1"}', 1_000),
    ],
    ids=["nested", "long arguments", "long name", "surrogates", "many"],
)
def test_tool_calls_are_bounded_and_answered(server, store, converse, acts, behave) -> None:
    server.plan = [behave, acts.says(GOOD)]
    dialogue = converse(tools=True)
    assert ask(dialogue).kept is not None
    assert len(json.dumps(server.bodies[1])) < 30_000
    assert [call.outcome for call in calls(store)] == ["tool", "ok"]
    assert reserved(store, dialogue) == 0


def test_lone_surrogates_survive_the_repair_round(server, store, converse, acts) -> None:
    server.plan = [acts.says("no \ud800\x1b[31m JSON"), acts.says(GOOD)]
    assert ask(converse()).kept is not None
    assert server.bodies[1]["messages"][2]["content"] == "no [31m JSON"


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": 10**30, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": 2**62},
        {"prompt_tokens": 2**31, "completion_tokens": 2**31},
    ],
)
def test_usage_beyond_reason_is_recorded_and_ends_the_matter(server, store, converse, counts) -> None:
    server.plan = [usage(**counts)]
    dialogue = converse()
    assert ask(dialogue).kept is not None
    (call,) = calls(store)
    assert 1_000_000_000 <= call.tokens_in + call.tokens_out < 2**32
    assert dialogue.breaker.state == "dead"
    assert reserved(store, dialogue) == 0


@pytest.mark.parametrize("counts", [{"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": -3}])
def test_words_that_are_said_to_cost_nothing_count_in_full(server, store, converse, counts) -> None:
    server.plan = [usage(**counts)]
    dialogue = converse()
    ask(dialogue)
    (call,) = calls(store)
    assert call.tokens_out == 200
    assert call.tokens_in > len(PROMPT.text)


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices": ' + b"[" * 200_000,
        b'{"choices": {"a": 1}}',
        b'{"choices": [{"message": {"content": "", "tool_calls": 7}}]}',
        b'{"choices": [7]}',
    ],
    ids=["nested", "no list", "no calls", "no choice"],
)
def test_bodies_of_odd_shapes_are_recorded_trouble(server, store, converse, acts, data) -> None:
    server.plan = [acts.raw(data), acts.says(GOOD)]
    dialogue = converse(tools=True)
    assert ask(dialogue).kept is not None
    assert calls(store)[0].outcome in ("garbled", "invalid")
    assert reserved(store, dialogue) == 0
