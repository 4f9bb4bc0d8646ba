"""What servers and models do in ways of their own, over a real HTTP server: none of it costs a usable answer."""

from __future__ import annotations

import json

import pytest
from llm_server import completion
from pydantic import BaseModel

from swarm.agents.llm import reply, retry
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.prompts import Prompt
from swarm.agents.llm.retry import CallError, ContextError
from swarm.agents.llm.telemetry import in_words, report
from swarm.agents.llm.thoughts import without_thoughts

PROMPT = Prompt("proposer", 1, "You are a test.")


class Thing(BaseModel):
    name: str
    size: int


GOOD = json.dumps({"name": "x", "size": 3})
DRAFT = json.dumps({"name": "draft", "size": 9})


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(retry, "BASE_DELAY", 0.01)


def ask(dialogue):
    return dialogue.ask(PROMPT, "data", Thing, Used)


def outcomes(store) -> list[str]:
    return [call.outcome for call in store.agent_calls.list()]


def sends(**message: object):
    """A server whose message has these fields."""
    return lambda handler, body: handler.send_json(completion("", **message))


PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel>thought\n", "<channel|>"),
    ("Here is my thought process:", "Here is my response:"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
    ),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
@pytest.mark.parametrize("form", ["whole", "not opened", "twice"])
def test_thoughts_of_every_family_are_no_answer(server, store, converse, acts, opening, closing, form) -> None:
    thought = f"Perhaps {DRAFT}?"
    begin = {"whole": opening, "not opened": "", "twice": f"{opening}{thought}{closing}{opening}"}[form]
    server.plan = [acts.says(f"{begin}{thought}{closing}{GOOD}")]
    assert ask(converse()).kept == Thing(name="x", size=3)
    assert outcomes(store) == ["ok"]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_thought_that_is_cut_off_holds_no_answer(opening, closing) -> None:
    assert DRAFT not in without_thoughts(f"{opening}Perhaps {DRAFT}")
    assert without_thoughts(f"{GOOD} {opening}so").strip() == GOOD


@pytest.mark.parametrize("mark", [closing for _, closing in PAIRS])
def test_marks_in_an_answers_own_words_close_nothing(server, converse, acts, mark) -> None:
    thing = Thing(name=f"a {mark} b", size=3)
    server.plan = [acts.says(thing.model_dump_json())]
    assert ask(converse()).kept == thing


@pytest.mark.parametrize("text", ["", "plain", GOOD, "a < b [x] <|end", "<answer>1</answer>"])
def test_what_has_no_marks_stays(text) -> None:
    assert without_thoughts(text) == text.replace("<answer>", "").replace("</answer>", "")


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": GOOD},
        {"reasoning": f"Let me see.\n{GOOD}"},
        {"thinking": [{"type": "text", "text": GOOD}]},
        {"content": None, "reasoning_content": f"<think>hm</think>{GOOD}"},
        {"content": [{"type": "text", "text": GOOD[:5]}, {"type": "text", "text": GOOD[5:]}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
                {"type": "text", "text": GOOD},
            ]
        },
        {"content": [GOOD]},
        {"content": {"type": "text", "text": GOOD}},
        {"content": [{"type": "output_text", "text": {"value": GOOD}}]},
        {"content": GOOD, "reasoning_content": DRAFT},
        {"content": json.loads(GOOD)},
        {"content": None, "parsed": json.loads(GOOD)},
        {"content": json.dumps(GOOD)},
        {"content": json.dumps({"answer": json.loads(GOOD)})},
        {"content": f'<tool_call>{{"name": "answer", "arguments": {GOOD}}}</tool_call>'},
        {"content": None, "tool_calls": [{"function": {"name": "answer", "arguments": GOOD}}], "reasoning": DRAFT},
    ],
)
def test_answers_in_other_fields_and_shapes_are_found(server, store, converse, message) -> None:
    server.plan = [sends(**message)]
    assert ask(converse()).kept == Thing(name="x", size=3)
    assert outcomes(store) == ["ok"]


def test_words_beside_the_message_are_found(server, converse) -> None:
    server.plan = [lambda handler, body: handler.send_json({"choices": [{"text": GOOD}]})]
    assert ask(converse()).kept == Thing(name="x", size=3)


SELECT = {"sql": "SELECT 1 AS one"}


@pytest.mark.parametrize(
    "arguments",
    [SELECT, json.dumps(SELECT), json.dumps(json.dumps(SELECT)), f" {json.dumps(SELECT)} ", f"{json.dumps(SELECT)}}}"],
    ids=["object", "text", "text of text", "blanks", "one brace too many"],
)
@pytest.mark.parametrize("identity", [{"id": "c1"}, {"id": None}, {"id": ""}, {}], ids=str)
def test_tool_arguments_in_any_form_are_read(server, store, converse, acts, arguments, identity) -> None:
    call = {"type": "function", "function": {"name": "query", "arguments": arguments}, **identity}
    server.plan = [acts.says("", tool_calls=[call]), acts.says(GOOD)]
    assert ask(converse(tools=True)).kept is not None
    *_, asked, told = server.bodies[1]["messages"]
    assert "one" in told["content"]
    assert "error" not in told["content"]
    assert told["tool_call_id"] == asked["tool_calls"][0]["id"] != ""
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == SELECT


@pytest.mark.parametrize("separator", ["", "\n", ", "])
def test_several_arguments_in_a_row_are_several_calls(server, converse, acts, separator) -> None:
    both = separator.join(json.dumps({"sql": f"SELECT {n} AS n"}) for n in (41, 42))
    server.plan = [
        acts.says("", tool_calls=[{"id": "c", "type": "function", "function": {"name": "query", "arguments": both}}]),
        acts.says(GOOD),
    ]
    assert ask(converse(tools=True)).kept is not None
    told = [message for message in server.bodies[1]["messages"] if message["role"] == "tool"]
    assert ["41" in told[0]["content"], "42" in told[1]["content"]] == [True, True]
    assert len({message["tool_call_id"] for message in told}) == 2


def test_equal_and_missing_identities_are_told_apart(server, converse, acts) -> None:
    function = {"name": "query", "arguments": SELECT}
    calls = [{"id": "same", "function": function}, {"id": "same", "function": function}, {"function": function}]
    server.plan = [acts.says("", tool_calls=calls), acts.says(GOOD)]
    assert ask(converse(tools=True)).kept is not None
    asked = next(message for message in server.bodies[1]["messages"] if message.get("tool_calls"))
    told = [message["tool_call_id"] for message in server.bodies[1]["messages"] if message["role"] == "tool"]
    assert [call["id"] for call in asked["tool_calls"]] == told
    assert len(set(told)) == 3
    assert told[0] == "same"


def test_the_function_of_old_is_a_tool(server, converse) -> None:
    server.plan = [sends(function_call={"name": "query", "arguments": json.dumps(SELECT)}), sends(content=GOOD)]
    assert ask(converse(tools=True)).kept is not None


@pytest.mark.parametrize(
    ("error", "outcome", "fatal"),
    [
        ({"message": "overloaded", "code": 503}, "http_503", False),
        ({"message": "slow down", "code": "429"}, "http_429", False),
        ({"message": "no such key", "code": 401}, "http_401", True),
        ({"message": "the prompt exceeds the context length", "code": 400}, "context", False),
        ("maximum context length is 4096 tokens", "context", False),
        ({"message": "what?"}, "garbled", False),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["body", "choice"])
def test_an_error_in_a_success_means_what_it_says(server, converse, error, outcome, fatal, place) -> None:
    choice = {"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": ""}, "error": error}
    body = {"error": error} if place == "body" else {"choices": [choice]}
    server.plan = [lambda handler, _: handler.send_json(body)]
    with pytest.raises(CallError) as caught:
        ask(converse(llm_attempts=1))
    assert (caught.value.outcome, caught.value.fatal) == (outcome, fatal)


TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
    "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "prompt is too long: 213462 tokens > 200000 maximum",
    "`inputs` tokens + `max_new_tokens` must be <= 4096",
    "Please reduce the length of the messages or completion.",
    "The input token count (40000) exceeds the maximum number of tokens allowed (32768).",
]


@pytest.mark.parametrize("message", TOO_LONG)
def test_a_prompt_beyond_the_context_costs_later_calls_nothing(server, store, converse, acts, message) -> None:
    server.plan = [acts.status(400, message=message), acts.says(GOOD)]
    dialogue = converse(tools=True, llm_temperature=0.3)
    before, room = dialogue.client.dialect, dialogue.room
    with pytest.raises(ContextError):
        ask(dialogue)
    assert len(server.bodies) == 1
    assert dialogue.room <= room // 2
    assert dialogue.breaker.state == "closed"
    assert dialogue.client.dialect == before
    assert ask(dialogue).kept is not None
    assert server.bodies[1].keys() == server.bodies[0].keys()
    assert outcomes(store) == ["context", "ok"]


def test_a_refusal_that_nothing_cures_costs_later_calls_nothing(server, store, converse, acts) -> None:
    server.plan = [acts.status(400, message="no"), *[acts.status(400, message="no")] * 6, acts.says(GOOD)]
    dialogue = converse(tools=True, llm_temperature=0.3)
    before = dialogue.client.dialect
    with pytest.raises(CallError):
        ask(dialogue)
    assert dialogue.client.dialect == before
    assert ask(dialogue).kept is not None
    assert server.bodies[-1].keys() == server.bodies[0].keys()


@pytest.mark.parametrize(
    ("refused", "form"),
    [
        (lambda shape: "maxItems" in json.dumps(shape), "json_schema"),
        (lambda shape: shape["type"] == "json_schema", "json_object"),
        (lambda shape: shape["type"] == "json_schema" or "schema" in shape, "json_object"),
        (lambda shape: True, None),
    ],
)
def test_the_schema_is_sent_in_the_form_that_the_server_takes(server, converse, refused, form) -> None:
    def picky(handler, body):
        shape = body.get("response_format")
        if shape is not None and refused(shape):
            handler.send_json({"error": {"message": "unsupported response_format"}}, 400)
        else:
            handler.send_json(completion(GOOD))

    server.plan = [picky]
    dialogue = converse()
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "x": {"type": "array", "maxItems": 2}}}
    for _ in range(2):
        assert dialogue.ask(PROMPT, "data", Thing, Used, schema).kept is not None
    shape = server.bodies[-1].get("response_format")
    assert (shape and shape["type"]) == form
    assert server.bodies[-2].get("response_format") == shape  # found out once


def test_an_answer_that_is_wrong_is_usable_and_not_asked_for_again(server, store, converse, acts) -> None:
    server.plan = [acts.says(GOOD)]
    dialogue = converse()
    used = dialogue.ask(PROMPT, "data", Thing, lambda _: Used(None, ("the data are against it",), judged=True))
    assert (used.kept, used.judged) == (None, True)
    assert len(server.bodies) == 1
    told = report(store, dialogue.budget.campaign_id)
    assert told is not None
    assert (told["answers"], told["usable"], told["kept"], told["share"]) == (1, 1, 0, 1.0)
    assert "1 of 1 answers usable (100%), 0 kept" in in_words(told)


@pytest.mark.parametrize(
    ("told", "count"), [({"cached_tokens": 5}, 5), ({"cached_tokens": "5"}, 0), ([], 0), (None, 0)]
)
def test_what_a_server_had_read_before_is_counted_where_it_tells(told, count) -> None:
    body = completion("x")
    body["usage"]["prompt_tokens_details"] = told
    found = reply.read(body, 1.0)
    assert found is not None
    assert found.tokens_cached == count


def events(*messages: dict, field: str = "delta", end: str = "\n\n", mark: str = "data: ") -> bytes:
    """A stream of a message's pieces, with what servers put between them."""
    told = [{"choices": [{"index": 0, field: message}]} for message in messages]
    told.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}})
    lines = [mark + json.dumps(event) for event in told] + ([f"{mark}[DONE]"] if mark else [])
    return end.join([": keep-alive", *lines, ""]).encode()


PIECES = ({"role": "assistant", "content": GOOD[:5]}, {"role": "assistant", "content": GOOD[5:]})


@pytest.mark.parametrize(
    "data",
    [
        events(*PIECES),
        events(*PIECES, end="\r\n\r\n"),
        events(*PIECES, mark=""),
        events({"content": "", "reasoning": DRAFT}, *PIECES),
        events({"content": GOOD}, field="message"),
        b"\n \n" + json.dumps(completion(GOOD, tokens=(7, 5))).encode(),
        b"\xef\xbb\xbf" + json.dumps(completion(GOOD, tokens=(7, 5))).encode(),
        json.dumps([completion(GOOD, tokens=(7, 5))]).encode(),
    ],
    ids=["stream", "other line ends", "line by line", "thoughts", "whole messages", "blanks before", "mark", "list"],
)
def test_bodies_are_read_however_they_are_framed(server, store, converse, data) -> None:
    server.plan = [lambda handler, _: handler.send_bytes(data, 200, {"content-type": "text/plain"})]
    assert ask(converse()).kept == Thing(name="x", size=3)
    (call,) = store.agent_calls.list()
    assert (call.outcome, call.tokens_in, call.tokens_out) == ("ok", 7, 5)


def test_tool_calls_in_pieces_are_put_together(server, converse, acts) -> None:
    text = json.dumps(SELECT)
    pieces = [{"index": 0, "id": "c1", "function": {"name": "query", "arguments": text[:4]}}]
    pieces += [{"index": 1, "id": "c2", "function": {"name": "query", "arguments": text}}]
    pieces += [{"index": 0, "function": {"arguments": text[4:]}}]
    data = events(*({"tool_calls": [piece]} for piece in pieces))
    server.plan = [lambda handler, _: handler.send_bytes(data), acts.says(GOOD)]
    assert ask(converse(tools=True)).kept is not None
    told = [message for message in server.bodies[1]["messages"] if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in told] == ["c1", "c2"]
    assert all("one" in message["content"] and "error" not in message["content"] for message in told)


def test_an_error_in_a_stream_means_what_it_says(server, converse) -> None:
    data = events(*PIECES) + b'data: {"error": {"code": 401, "message": "no such key"}}\n\n'
    server.plan = [lambda handler, _: handler.send_bytes(data)]
    with pytest.raises(CallError) as caught:
        ask(converse(llm_attempts=1))
    assert (caught.value.outcome, caught.value.fatal) == ("http_401", True)


def test_a_server_that_only_streams_is_asked_to(server, converse) -> None:
    def streams(handler, body):
        if body.get("stream"):
            handler.send_bytes(events(*PIECES))
        else:
            handler.send_json({"error": {"message": "stream must be true"}}, 400)

    server.plan = [streams]
    dialogue = converse()
    for _ in range(2):
        assert ask(dialogue).kept is not None
    assert [body.get("stream", False) for body in server.bodies] == [False, True, True]  # found out once


@pytest.mark.parametrize("code", [400, 500])
@pytest.mark.parametrize("said", ["System role not supported", "Conversation roles must alternate user/assistant/..."])
def test_a_model_without_a_system_role_is_told_in_the_first_message(server, converse, said, code) -> None:
    def plain(handler, body):
        if body["messages"][0]["role"] == "system":
            handler.send_json({"error": {"message": said}}, code)
        else:
            handler.send_json(completion(GOOD))

    server.plan = [plain]
    dialogue = converse()
    for _ in range(2):
        assert ask(dialogue).kept is not None
    assert [len(body["messages"]) for body in server.bodies] == [2, 1, 1]  # found out once
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": f"{PROMPT.text}\n\ndata"}]
    assert server.bodies[-1].keys() == server.bodies[0].keys()


def test_a_refusal_and_a_cut_end_are_told_to_the_model(server, store, converse, acts) -> None:
    cut = completion('{"name": "x', tokens=(7, 5))
    cut["choices"][0]["finish_reason"] = "length"
    server.plan = [sends(content=None, refusal="I cannot say."), acts.says(GOOD), lambda h, _: h.send_json(cut)]
    dialogue = converse()
    assert ask(dialogue).kept is not None
    assert server.bodies[1]["messages"][2]["content"] == "I cannot say."
    assert ask(dialogue).kept is None
    assert "It was cut off" in server.bodies[-1]["messages"][3]["content"]


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD} I hope this helps {{or not}}.",
        f"{GOOD}\n\nOr rather {DRAFT}",
        '{"name": "x", "size": "3"}',
        '{"name": "x",\n "size": 3,}',
    ],
)
def test_forms_of_an_answer_in_the_text_are_read(server, converse, acts, text) -> None:
    server.plan = [acts.says(text)]
    assert ask(converse()).kept == Thing(name="x", size=3)


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, "a"),
        ({"models": [{"name": "a"}]}, "a"),
        ([{"model": "a"}], "a"),
        ({"data": ["a"]}, "a"),
        ({"data": None}, None),
        ({"data": []}, None),
        ({}, None),
        ({"data": [{"id": 3}, None, {}]}, None),
    ],
    ids=str,
)
def test_lists_of_models_are_read_in_any_shape(listed, name) -> None:
    assert next(iter(reply.model_names(listed)), None) == name
