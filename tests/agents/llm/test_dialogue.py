from __future__ import annotations

import json
import threading
import time

import pytest
from pydantic import BaseModel

from swarm.agents.llm import retry
from swarm.agents.llm.budget import Price
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.prompts import Prompt
from swarm.agents.llm.retry import BreakerOpenError, CallError, CircuitBreaker
from swarm.memory.errors import BudgetError

PROMPT = Prompt("proposer", 1, "You are a test.")


class Thing(BaseModel):
    name: str
    size: int


GOOD = json.dumps({"name": "x", "size": 3})


def keep(answer: Thing) -> Used[Thing]:
    return Used(answer) if answer.size < 10 else Used(None, ("too large",))


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(retry, "BASE_DELAY", 0.01)


def ask(dialogue):
    return dialogue.ask(PROMPT, "data", Thing, keep)


def many(dialogue, times: int) -> None:
    for _ in range(times):
        ask(dialogue)


def calls(store):
    return store.agent_calls.list()


def totals(store, dialogue) -> dict[str, tuple[float, float]]:
    found = store.ledger.totals(dialogue.budget.campaign_id)
    return {kind: (account.spent, account.reserved) for kind, account in found.items() if kind in ("tokens", "usd")}


def test_a_good_answer_is_kept_paid_and_recorded(server, store, converse, acts) -> None:
    server.plan = [acts.says(GOOD)]
    dialogue = converse(key="secret")
    assert ask(dialogue).kept == Thing(name="x", size=3)
    (call,) = calls(store)
    assert (call.role, call.outcome, call.model) == ("proposer", "ok", "test-model")
    assert call.prompt_hash == PROMPT.digest
    assert (call.tokens_in, call.tokens_out) == (100, 20)
    assert call.usd == pytest.approx(100e-6 + 40e-6)
    assert call.seconds > 0
    assert totals(store, dialogue) == {"tokens": (120, 0), "usd": (pytest.approx(140e-6), 0)}
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.bodies[0]["response_format"]["type"] == "json_schema"
    assert server.bodies[0]["messages"][0] == {"role": "system", "content": "You are a test."}


@pytest.mark.parametrize(
    "text",
    [
        f"Sure! Here it is:\n```json\n{GOOD}\n```\nHope that helps.",
        f"<think>size 3? {{no}}</think>\n{GOOD}",
        f"{GOOD} {GOOD}",
        '{"name": "x", "size": 3,}',
        '{"name": "x", "size": 3',
        '{"ignored": 1} then {"name": "x", "size": "3"}',
        f"[{GOOD}]".replace("[", "").replace("]", "") + "]]]",
    ],
)
def test_answers_are_read_as_models_write_them(server, store, converse, acts, text) -> None:
    server.plan = [acts.says(text)]
    assert ask(converse()).kept == Thing(name="x", size=3)
    assert len(calls(store)) == 1


@pytest.mark.parametrize(
    "text", ["", "no idea", "{", "[1, 2", '{"name": "x"}', "null", '{"name": "x", "size": 99}', "{" * 5_000]
)
def test_one_repair_round_and_then_the_built_in_code(server, store, converse, acts, text) -> None:
    server.plan = [acts.says(text), acts.says(GOOD)]
    assert ask(converse()).kept == Thing(name="x", size=3)
    assert [c.outcome for c in calls(store)] == ["invalid", "ok"]
    assert "cannot be used" in server.bodies[1]["messages"][-1]["content"] or "too large" in str(server.bodies[1])
    server.plan = [acts.says(text)]
    used = ask(converse())
    assert used.kept is None
    assert used.reasons
    assert [c.outcome for c in calls(store)][2:] == ["invalid", "invalid_again"]


@pytest.mark.parametrize("code", [401, 403, 404])
def test_refusals_end_the_matter(server, store, converse, acts, code) -> None:
    server.plan = [acts.status(code)]
    dialogue = converse()
    with pytest.raises(CallError) as caught:
        ask(dialogue)
    assert caught.value.fatal
    assert caught.value.remedy
    assert len(server.bodies) == 1
    assert dialogue.breaker.state == "dead"
    with pytest.raises(BreakerOpenError):
        ask(dialogue)
    assert len(server.bodies) == 1
    assert [c.outcome for c in calls(store)] == [f"http_{code}"]
    assert totals(store, dialogue) == {"tokens": (0, 0), "usd": (0, 0)}


@pytest.mark.parametrize("code", [429, 500, 502, 503, 529])
def test_passing_trouble_is_tried_again(server, store, converse, acts, code) -> None:
    server.plan = [acts.status(code), acts.status(code), acts.says(GOOD)]
    assert ask(converse()).kept
    assert [c.outcome for c in calls(store)] == [f"http_{code}"] * 2 + ["ok"]


def test_lasting_trouble_opens_the_breaker(server, store, converse, acts) -> None:
    server.plan = [acts.status(500)]
    dialogue = converse()
    with pytest.raises(CallError) as caught:
        ask(dialogue)
    assert not caught.value.fatal
    assert len(server.bodies) == 3
    assert dialogue.breaker.state == "open"
    with pytest.raises(BreakerOpenError):
        ask(dialogue)
    assert len(server.bodies) == 3


def test_retry_after_is_respected(server, store, converse, acts) -> None:
    server.plan = [acts.status(429, headers={"retry-after": "0.4"}), acts.says(GOOD)]
    dialogue = converse()
    started = time.monotonic()
    assert ask(dialogue).kept
    assert time.monotonic() - started >= 0.4
    server.plan = [acts.status(429, headers={"retry-after": "3600"})]
    with pytest.raises(CallError):
        ask(dialogue)
    assert dialogue.breaker.state == "open"
    assert len(server.bodies) == 3


@pytest.mark.parametrize("name", ["hangs", "breaks_off", "raw"])
def test_answers_that_never_come_count_as_paid(server, store, converse, acts, name) -> None:
    behaviour = acts.raw(b"<html>login</html>", "text/html") if name == "raw" else getattr(acts, name)()
    server.plan = [behaviour, acts.says(GOOD)]
    dialogue = converse(llm_timeout=0.3)
    assert ask(dialogue).kept
    first, second = calls(store)
    assert first.outcome in ("timeout", "connection", "garbled")
    assert first.tokens_in > 0
    assert first.tokens_out == 200
    assert second.outcome == "ok"
    assert totals(store, dialogue)["tokens"][1] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"error": "x"}',
        b'"text"',
        b'{"choices": [{}]}',
        b"\xff\xfe",
    ],
)
def test_bodies_that_are_no_completions(server, store, converse, acts, data) -> None:
    server.plan = [acts.raw(data), acts.says(GOOD)]
    assert ask(converse()).kept == Thing(name="x", size=3)
    assert calls(store)[0].outcome in ("garbled", "invalid")


def test_nobody_listens(store, converse, server) -> None:
    dialogue = converse()
    server.shutdown()
    server.server_close()
    with pytest.raises(CallError) as caught:
        ask(dialogue)
    assert caught.value.outcome == "connection"
    assert totals(store, dialogue) == {"tokens": (0, 0), "usd": (0, 0)}


def test_servers_that_know_less_are_asked_simpler(server, store, converse, acts) -> None:
    def picky(handler, body):
        for field in ("response_format", "temperature", "tools"):
            if field in body:
                handler.send_json({"error": {"message": f"unknown field {field}"}}, 400)
                return
        if "max_tokens" in body:
            handler.send_json({"error": {"message": "use max_completion_tokens"}}, 400)
            return
        handler.send_json(acts.completion(GOOD))

    server.plan = [picky]
    dialogue = converse(llm_temperature=0.3, tools=True)
    assert ask(dialogue).kept
    assert dialogue.client.dialect.structured == "none"
    before = len(server.bodies)
    assert ask(dialogue).kept
    assert len(server.bodies) == before + 1


def test_a_server_that_refuses_everything_is_given_up(server, store, converse, acts) -> None:
    server.plan = [acts.status(400)]
    with pytest.raises(CallError) as caught:
        ask(converse(tools=True, llm_temperature=0.1))
    assert not caught.value.retry
    assert len(server.bodies) < 10


def tool_call(sql: str, name: str = "query") -> dict:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps({"sql": sql})}}


def test_tools_read_and_never_write(server, store, converse, acts) -> None:
    wants = [
        [tool_call("SELECT name FROM campaigns")],
        [tool_call("DELETE FROM campaigns"), tool_call("x", "shell")],
        [{"id": "c", "type": "function", "function": {"name": "query", "arguments": "not json"}}],
    ]
    server.plan = [*(acts.says("", tool_calls=calls_) for calls_ in wants), acts.says(GOOD)]
    dialogue = converse(tools=True)
    assert ask(dialogue).kept
    results = [m["content"] for m in server.bodies[-1]["messages"] if m["role"] == "tool"]
    assert "campaign" in results[0]
    assert results[1].startswith("error:")
    assert "no tool 'shell'" in results[2]
    assert results[3].startswith("error:")
    assert len(store.campaigns.list()) == 1
    assert [c.outcome for c in calls(store)] == ["tool", "tool", "tool", "ok"]


def test_tools_without_end_come_to_an_end(server, store, converse, acts) -> None:
    server.plan = [acts.says("", tool_calls=[tool_call("SELECT 1 AS one")])]
    used = ask(converse(tools=True))
    assert used.kept is None
    assert len(server.bodies) <= 10
    assert "tools" not in server.bodies[-1] or len(server.bodies) == 10


@pytest.mark.parametrize("limit", [{"tokens": 1_000}, {"usd": 0.0015}, {"tokens": 0}, {"usd": 0.0}])
def test_caps_are_kept_before_the_call(server, store, converse, acts, limit) -> None:
    server.plan = [acts.says("no")]
    dialogue = converse(budget=limit, price=Price(1.0, 2.0))
    with pytest.raises(BudgetError):
        many(dialogue, 30)
    kind, cap = next(iter(limit.items()))
    spent, reserved = totals(store, dialogue)[kind]
    assert spent <= cap
    assert reserved == 0
    assert calls(store)[-1].outcome == "budget"
    assert len(server.bodies) == len(calls(store)) - 1


def test_a_server_that_ignores_the_limit_is_asked_no_more(server, store, converse, acts) -> None:
    server.plan = [acts.says(GOOD, tokens=(100, 50_000))]
    dialogue = converse()
    assert ask(dialogue).kept
    assert dialogue.breaker.state == "dead"
    with pytest.raises(BreakerOpenError):
        ask(dialogue)


def test_usage_that_is_not_told_counts_in_full(server, store, converse, acts) -> None:
    server.plan = [acts.says(GOOD, tokens=None)]
    ask(converse())
    (call,) = calls(store)
    assert call.tokens_out == 200
    assert call.tokens_in > 100


def test_defects_in_the_judge_settle_the_call(server, store, converse, acts) -> None:
    server.plan = [acts.says(GOOD)]
    dialogue = converse()

    def broken(answer):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        dialogue.ask(PROMPT, "data", Thing, broken)
    assert calls(store)[0].outcome == "error"
    assert totals(store, dialogue)["tokens"][1] == 0


def test_closing_ends_waits(server, store, converse, acts) -> None:
    server.plan = [acts.status(429, headers={"retry-after": "15"})]
    dialogue = converse()
    threading.Timer(0.2, dialogue.close).start()
    started = time.monotonic()
    with pytest.raises(CallError):
        ask(dialogue)
    assert time.monotonic() - started < 10


def test_several_threads_share_caps_and_breaker(server, store, converse, acts) -> None:
    server.plan = [acts.says(GOOD)]
    dialogue = converse(budget={"tokens": 20_000})
    failures = []

    def work() -> None:
        try:
            for _ in range(5):
                ask(dialogue)
        except BudgetError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    spent, reserved = totals(store, dialogue)["tokens"]
    assert spent == 120 * len(server.bodies) <= 20_000
    assert reserved == 0


class TestCircuitBreaker:
    def test_opens_cools_down_and_closes(self) -> None:
        now = [0.0]
        breaker = CircuitBreaker(lambda: now[0])
        for _ in range(3):
            breaker.enter()
            breaker.failed(CallError("x", retry=True))
        assert breaker.state == "open"
        with pytest.raises(BreakerOpenError):
            breaker.enter()
        now[0] = 16
        assert breaker.state == "half-open"
        breaker.enter()
        with pytest.raises(BreakerOpenError):
            breaker.enter()
        breaker.failed(CallError("x", retry=True))
        now[0] = 30
        assert breaker.state == "open"
        now[0] = 60
        breaker.enter()
        breaker.succeeded()
        assert breaker.state == "closed"
        breaker.enter()
        breaker.enter()


def test_retry_after_comes_in_two_forms() -> None:
    from datetime import UTC, datetime

    now = datetime(2025, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry.retry_after("7") == 7
    assert retry.retry_after("-3") == 0
    assert retry.retry_after("Wed, 01 Jan 2025 12:00:30 GMT", now) == 30
    assert retry.retry_after("Wed, 01 Jan 2020 12:00:30 GMT", now) == 0
    assert retry.retry_after("soon") is None
    assert retry.retry_after(None) is None
