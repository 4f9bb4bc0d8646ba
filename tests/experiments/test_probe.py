"""Probing a real mlx_lm.server, every engine's extras, and servers that misbehave."""

from __future__ import annotations

import json
import time

import pytest
from engine_server import FakeEngine, events

from swarm.experiments.engines import base
from swarm.experiments.engines.probe import scenarios
from swarm.experiments.engines.probe.endpoint import Endpoint, Exchange, ProbeError, TooLongError
from swarm.experiments.engines.probe.http_host import normalise, public
from swarm.experiments.engines.probe.prompts import PromptMaker
from swarm.experiments.text import Corpus
from swarm.kernels import plugins
from swarm.kernels.errors import UsageError

TEXT = Corpus.open().text
STREAM = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}


def test_a_real_server_is_measured(mlx_server):
    endpoint = Endpoint(mlx_server.url)
    assert (endpoint.engine.name, endpoint.name) == ("mlx_lm", f"{mlx_server.url}/v1")
    settings = scenarios.ProbeSettings(contexts=(320, 96), max_tokens=12, repeats=2, clients=2)
    found = list(scenarios.run(endpoint, settings, TEXT, lambda told: None))
    assert [result.spec.context for result in found] == [96, 320]
    for result in found:
        measured = result.measurement
        prompt = measured["prompt_tokens"]
        assert 0.8 * (result.spec.context - 12) <= prompt <= 1.2 * result.spec.context
        assert measured["completion_tokens"] <= 12
        waits = measured.arrays["run_ttft"]
        assert len(waits) == 2
        assert 0 < min(waits) <= measured["ttft"] <= max(waits)
        assert 0.9 * prompt / max(waits) <= measured["prefill_rate"] <= 1.1 * prompt / min(waits)
        assert measured["clients"] == 2
        assert "mlx_lm.server" in measured.notes
        assert measured.environment.versions["mlx_lm"].startswith("0.")
    assert found[1].measurement["shared_cached"] > 0.8
    by_name = {metric.name: metric for metric in found[0].measurement.metrics}
    assert by_name["ttft"].n == 2
    assert by_name["ttft"].stderr is not None


def test_prompts_have_the_wanted_length_and_are_never_seen_before(mlx_server):
    endpoint = Endpoint(mlx_server.url)
    maker = PromptMaker.measured(endpoint, TEXT)
    for wanted in (64, 400):
        asked = endpoint.ask(maker.prefix(wanted) + maker.question(0), 2)
        assert asked.prompt_tokens == pytest.approx(wanted, abs=12)
        assert (asked.cached_tokens or 0) <= 8
    assert maker.prefix(100) != maker.prefix(100)
    long = PromptMaker("ab", 4.0, 0.0).prefix(1000)
    assert 3900 <= len(long) <= 4000


def test_a_model_that_the_server_does_not_have(mlx_server):
    with pytest.raises(ProbeError, match="no/such-model"):
        Endpoint(mlx_server.url, "no/such-model").ask("hello", 2)


def completion(text="x", usage=None, **extra):
    return {"id": "1", "object": "text_completion", "created": 1, "model": "m", **extra} | (
        {"choices": [], "usage": usage} if usage else {"choices": [{"index": 0, "text": text, "finish_reason": None}]}
    )


USAGE = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}
GOOD = events(completion("a"), completion("b"), completion("c"), completion(usage=USAGE))
MODELS = json.dumps(
    {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}
).encode()


def engine(post, gets=None):
    """A server that lists one model, answers completions by `post`, and GETs by path."""
    pages = {"/v1/models": MODELS, **(gets or {})}

    def answer(method, path, body):
        if method == "POST":
            return post(path, body)
        return (200, JSON, [pages[path]]) if path in pages else (404, JSON, [b"{}"])

    return FakeEngine(answer)


def streams(chunks, status=200):
    return lambda path, body: (status, STREAM, chunks)


def test_the_timing_is_that_of_the_pieces():
    def slow(path, body):
        def chunks():
            for pause, chunk in zip((0.05, 0.1, 0.1, 0, 0), GOOD, strict=True):
                time.sleep(pause)
                yield chunk

        return 200, STREAM, chunks()

    with engine(slow) as fake:
        found = Endpoint(fake.url).ask("hello", 3)
    assert len(found.arrivals) == 3
    assert found.first >= 0.05
    assert found.decode_seconds >= 0.19
    assert found.decode_rate == pytest.approx(2 / found.decode_seconds)
    assert found.cached_tokens is None


def test_pieces_that_stand_for_several_tokens_do_not_speed_things_up():
    whole = Exchange(prompt_tokens=9, completion_tokens=6, arrivals=(1.0, 1.2, 1.4, 1.6, 1.8, 2.0))
    held_back = Exchange(prompt_tokens=9, completion_tokens=6, arrivals=(1.2, 1.6, 2.0))
    assert whole.decode_rate == pytest.approx(5)
    assert held_back.decode_rate == pytest.approx(5)
    assert Exchange(prompt_tokens=9, completion_tokens=6, arrivals=(1.2,)).decode_rate is None


def test_engines_with_chat_only_are_asked_by_chat():
    def chat(path, body):
        if path == "/v1/completions":
            return 404, JSON, [b'{"error": {"message": "no such route"}}']
        assert body["messages"][0]["role"] == "user"
        piece = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        thinking = {**piece, "choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
        said = {**piece, "choices": [{"index": 0, "delta": {"content": "yes"}}]}
        return 200, STREAM, events(thinking, said, {**piece, "choices": [], "usage": USAGE})

    with engine(chat) as fake:
        endpoint = Endpoint(fake.url)
        assert len(endpoint.ask("hello", 3).arrivals) == 2
        assert endpoint.chat


ENGINES = {
    "ollama": {
        "/": b"Ollama is running",
        "/api/version": b'{"version": "0.9.0"}',
        "/api/ps": json.dumps(
            {"models": [{"name": "m", "model": "m", "size": 500, "size_vram": 400, "context_length": 4096}]}
        ).encode(),
    },
    "llama_server": {
        "/props": b'{"default_generation_settings": {"n_ctx": 8192}, "build_info": "b1"}',
        "/health": b"{}",
    },
    "lm_studio": {"/api/v0/models": b'{"data": [{"id": "m", "arch": "llama", "loaded_context_length": 2048}]}'},
    "vllm": {
        "/v1/models": b'{"object": "list", "data": [{"id": "m", "owned_by": "vllm", "max_model_len": 1024}]}',
        "/version": b'{"version": "0.11"}',
    },
    "unknown": {},
}


@pytest.mark.parametrize("name", ENGINES)
def test_engines_are_recognised_and_asked_what_they_know(name):
    timed = completion(usage=USAGE, timings={"prompt_per_second": 50.0, "predicted_per_second": 5.0})
    with engine(streams(events(completion("a"), completion("b"), timed)), ENGINES[name]) as fake:
        endpoint = Endpoint(fake.url)
        found = list(
            scenarios.run(endpoint, scenarios.ProbeSettings(contexts=(100,), max_tokens=2, clients=1), TEXT, str)
        )
        told = endpoint.engine.told(endpoint.host, "m")
    assert endpoint.engine.name == name
    assert told.max_context == {"ollama": 4096, "llama_server": 8192, "lm_studio": 2048, "vllm": 1024}.get(name)
    assert dict(told.memory) == ({"total": 500, "gpu": 400} if name == "ollama" else {})
    names = {metric.name for metric in found[0].measurement.metrics}
    assert ("engine_prefill_tokens_per_second" in names) == (name == "llama_server")
    assert ("memory_gpu" in names) == (name == "ollama")
    assert "clients" not in names
    bodies = [body for path, body, _ in fake.requests if body]
    assert all(body.get("ignore_eos") == (True if name in ("vllm", "llama_server") else None) for body in bodies)


def test_every_engine_is_tried_here_or_on_the_real_server():
    assert set(plugins.names(base.PACKAGE)) == set(ENGINES) - {"unknown"} | {"mlx_lm"}


@pytest.mark.parametrize("page", [b"", b"[]", b'"x"', b'{"data": 3}', b'{"data": [1, null]}', b"\xff\xfe", b"<html>"])
def test_strange_pages_make_no_engine_fail(page):
    paths = ("/", "/props", "/api/ps", "/api/version", "/api/v0/models", "/health", "/version")
    with engine(streams(GOOD), dict.fromkeys(paths, page)) as fake:
        endpoint = Endpoint(fake.url)
        assert endpoint.ask("hello", 3).prompt_tokens == 100
        for name in plugins.names(base.PACKAGE):
            kind = plugins.load(base.PACKAGE, base.Engine, name)()
            kind.told(endpoint.host, "m")


BAD = {
    "a web page": (streams([b"<html>hello</html>"]), "text|protocol"),
    "nothing": (streams([]), "sent no text"),
    "no text": (streams(events(completion(""), completion(usage=USAGE))), "sent no text"),
    "no usage": (streams(events(completion("a"))), "does not count tokens"),
    "broken JSON": (streams([b"data: {\n\n"]), "protocol"),
    "JSON of another kind": (streams([b"data: [1]\n\n", b"data: 3\n\n"]), "protocol"),
    "an error in the stream": (streams(events({"error": {"message": "out of memory"}})), "out of memory"),
    "an inner error": (lambda path, body: (500, JSON, [b'{"error": "boom"}']), "boom"),
    "too many requests": (lambda path, body: (429, JSON, [b'{"error": "slow down"}']), "slow down"),
    "a key wanted": (lambda path, body: (401, JSON, [b'{"error": "who are you"}']), "--api-key"),
    "a hang-up": (lambda path, body: (0, {}, []), "nothing answers|broke off"),
    "a cut stream": (
        lambda path, body: (200, {**STREAM, "Content-Length": "99999"}, GOOD[:2]),
        "broke off|nothing answers",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_servers_that_misbehave_get_one_clear_error(kind):
    post, said = BAD[kind]
    with engine(post) as fake, pytest.raises(ProbeError, match=said) as caught:
        Endpoint(fake.url, "m", timeout=5).ask("hello", 3)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_server_that_is_silent():
    def silent(path, body):
        time.sleep(2)
        return 200, STREAM, GOOD

    with engine(silent) as fake, pytest.raises(ProbeError, match=r"sent nothing for 0\.3 s"):
        Endpoint(fake.url, "m", timeout=0.3).ask("hello", 3)


def test_nobody_there():
    with pytest.raises(ProbeError, match="nothing answers"):
        Endpoint("http://127.0.0.1:1")


def test_an_answer_that_ends_at_once_is_asked_for_again():
    said = []

    def sometimes(path, body):
        said.append(body["prompt"])
        pieces = [completion("a"), completion("b")] if len(said) % 3 else []
        return 200, STREAM, events(*pieces, completion(usage=USAGE))

    with engine(sometimes) as fake:
        settings = scenarios.ProbeSettings(contexts=(100,), max_tokens=2, repeats=3, clients=1)
        found = list(scenarios.run(Endpoint(fake.url), settings, TEXT, str))
    assert {metric.n for metric in found[0].measurement.metrics if metric.name == "ttft"} == {3}
    assert len(set(said)) == len(said)


def test_a_refused_length_ends_the_ladder():
    def short(path, body):
        if len(body["prompt"]) > 4000:
            return 400, JSON, [b'{"error": {"message": "context length exceeded"}}']
        usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": 3, "total_tokens": 9}
        return 200, STREAM, events(completion("a"), completion("b"), completion(usage=usage))

    with engine(short) as fake:
        settings = scenarios.ProbeSettings(contexts=(500, 2000, 4000), max_tokens=4, repeats=1, clients=1)
        found = list(scenarios.run(Endpoint(fake.url), settings, TEXT, str))
    assert [result.measurement is not None for result in found] == [True, False]
    assert "context length exceeded" in found[1].refusal


def test_an_engine_that_cuts_prompts_is_found_out():
    def cutting(path, body):
        read = min(1000, len(body["prompt"]) // 4)
        usage = {"prompt_tokens": read, "completion_tokens": 3, "total_tokens": 9}
        return 200, STREAM, events(completion("a"), completion("b"), completion(usage=usage))

    with engine(cutting) as fake:
        settings = scenarios.ProbeSettings(contexts=(800, 2000), max_tokens=4, repeats=1, clients=1)
        found = list(scenarios.run(Endpoint(fake.url), settings, TEXT, str))
    assert found[0].measurement is not None
    assert "read 1000 of about 1996 tokens" in found[1].refusal


def test_several_models_have_to_be_named():
    listed = json.dumps({"object": "list", "data": [{"id": "a", "object": "model"}, {"id": "b", "object": "model"}]})
    with engine(streams(GOOD), {"/v1/models": listed.encode()}) as fake:
        with pytest.raises(UsageError, match="a, b"):
            Endpoint(fake.url)
        assert Endpoint(fake.url, "b").model == "b"
    empty = {"/v1/models": b'{"object": "list", "data": []}'}
    with engine(streams(GOOD), empty) as fake, pytest.raises(ProbeError, match="lists no models"):
        Endpoint(fake.url)


def test_keys_go_out_only_when_given(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    with engine(streams(GOOD)) as fake:
        Endpoint(fake.url).ask("hello", 3)
        sent = list(fake.requests)
        Endpoint(fake.url, api_key="mine").ask("hello", 3)
    assert "secret" not in str(sent)
    assert "Bearer mine" in str(fake.requests[len(sent) :])


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("localhost:8080", "http://localhost:8080/v1"),
        ("http://localhost:8080/", "http://localhost:8080/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("http://host/proxy/v1", "http://host/proxy/v1"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ],
)
def test_urls_as_people_write_them(url, meant):
    assert normalise(url) == meant


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host:99999", "http://host:x"])
def test_urls_that_are_none(url):
    with pytest.raises(UsageError):
        normalise(url)


def test_credentials_in_a_url_are_not_told():
    assert public("http://me:secret@host:1/v1") == "http://host:1/v1"


def test_a_prompt_refused_is_a_probe_error():
    assert issubclass(TooLongError, ProbeError)


def test_an_error_with_the_status_of_success_shows_its_reason():
    body = json.dumps({"error": {"message": "model is still loading", "code": 503}}).encode()
    with engine(lambda path, asked: (200, JSON, [body])) as fake:
        endpoint = Endpoint(fake.url)
        with pytest.raises(ProbeError, match="model is still loading"):
            endpoint.ask("hello", 3)


def test_an_engine_that_counts_no_prompt_tokens_is_measured_all_the_same():
    uncounted = {"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 3}
    chunks = events(completion("a"), completion("b"), completion("c"), completion(usage=uncounted))
    with engine(streams(chunks)) as fake:
        settings = scenarios.ProbeSettings(contexts=(256,), max_tokens=4, repeats=1, clients=2)
        (found,) = scenarios.run(Endpoint(fake.url), settings, TEXT, lambda told: None)
    assert found.refusal == ""
    assert found.measurement["prompt_tokens"] == 252
    assert "counts no prompt tokens" in found.measurement.notes


@pytest.mark.parametrize("asked", ["llama3.1", "llama3.1:latest", "hf.co/user/repo"])
def test_ollama_tells_the_memory_of_a_model_that_was_named_without_its_tag(asked):
    whole = asked if asked.endswith(":latest") else f"{asked}:latest"
    running = {"models": [{"name": whole, "model": whole, "size": 6 << 30, "size_vram": 5 << 30,
                           "context_length": 4096}]}  # fmt: skip
    pages = {"/": b"Ollama is running", "/api/ps": json.dumps(running).encode()}
    with engine(streams(GOOD), pages) as fake:
        endpoint = Endpoint(fake.url, asked)
        told = endpoint.engine.told(endpoint.host, endpoint.model)
    assert endpoint.engine.name == "ollama"
    assert (told.memory, told.max_context) == ({"total": 6 << 30, "gpu": 5 << 30}, 4096)
