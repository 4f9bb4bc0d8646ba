"""`swarm serve` over HTTP: several clients at once, reuse of caches, rates, and what it refuses."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import openai
import pytest
from engine_server import free_port, wait_until_up
from tiny_models import write_tiny_model

from swarm.experiments.engines.probe.endpoint import Endpoint

SWARM = (sys.executable, "-c", "from swarm.orchestrator.cli import main; main()")
WORDS = ("the", "model", "reads", "a", "cache", "of", "keys", "and", "values", "in", "few", "bits", "for", "all")
NOISE = 0.05  # of log-probabilities: a batch rounds otherwise, which can turn a code of 8 bits


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The path of a model."""
    return str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama", seed=3))


@pytest.fixture
def serving(tmp_path, tiny):
    """Starts `swarm serve`; yields its URL and its process."""
    started = []

    def start(*args, model=tiny):
        port = free_port()
        command = [*SWARM, "serve", "--model", model, "--port", str(port), *args]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        wait_until_up(f"{url}/health", process)
        return url, process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def ended(process):
    """What a server wrote until it was told to stop."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    said = process.stderr.read()
    assert "Stopped" in said
    assert "Traceback" not in said
    return said


def completion(url, prompt, tokens, **options):
    """The reply to a greedy completion."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, **options}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as reply:
        return json.loads(reply.read())


def test_the_server_answers_with_the_packed_cache(serving, cli, tiny):
    url, process = serving("--kv", "affine8/g32")
    endpoint = Endpoint(url)
    assert (endpoint.engine.name, endpoint.model) == ("mlx_lm", tiny)
    first = endpoint.ask("Topics of interest: one two three", 6)
    second = endpoint.ask("Topics of interest: one two three", 6)
    third = endpoint.ask("Topics of interest: one two four", 6)
    assert first.cached_tokens == 0
    assert second.cached_tokens > 20
    assert third.cached_tokens > 20
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    text = (
        client.completions.create(model=tiny, prompt="Topics of interest: one two three", max_tokens=6, temperature=0)
        .choices[0]
        .text
    )
    own = cli("generate", "--model", tiny, "--kv", "affine8/g32", "--tokens", "6", "--json", "--no-compare",
                "Topics of interest: one two three")  # fmt: skip
    assert text == json.loads(own.out)["text"]
    reply = completion(url, "Topics of interest: one two three", 6)
    used, timed = reply["usage"], reply["timings"]
    assert timed["cache_n"] == used["prompt_tokens_details"]["cached_tokens"] == used["prompt_tokens"] - 1
    assert (timed["prompt_n"], timed["predicted_n"]) == (1, used["completion_tokens"])
    assert timed["sixteen_bit_speedup"] > 0
    assert timed["predicted_per_second"] == pytest.approx(1e3 * (timed["predicted_n"] - 1) / timed["predicted_ms"])
    said = ended(process)
    assert "Serving" in said
    assert len(re.findall(r"Decode at 506 tokens of context: \S+ tok/s with K affine8/g32 .*with 16 bit", said)) == 1
    assert len(re.findall(r"prompt tokens at \S+ tok/s.* new at \S+ tok/s", said)) == 5
    assert "one at a time" not in said


@pytest.mark.parametrize("kv", ["q8_0 recent16", pytest.param("affine8/g32", marks=pytest.mark.slow)])
def test_clients_at_once_get_the_answers_of_each_alone(serving, kv):
    """Three clients whose requests overlap, and one that leaves in the middle of its answer."""
    url, process = serving("--kv", kv, "--no-compare")
    prompts = [_prompt(seed, words) for seed, words in ((1, 3), (2, 30), (3, 12))]
    options = {"logprobs": True, "stop": ["\0never\0"]}
    alone = [completion(url, prompt, 40, **options) for prompt in prompts]
    begun = threading.Event()
    leaver = threading.Thread(target=_leave, args=(url, _prompt(4, 20), begun))
    leaver.start()
    assert begun.wait(60)
    together = _at_once([lambda prompt=prompt: completion(url, prompt, 40, **options) for prompt in prompts])
    leaver.join()
    for one, other in zip(alone, together, strict=True):
        assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == one["usage"]["prompt_tokens"] - 1
        _same_until_a_tie(one, other)
    _same_until_a_tie(alone[0], completion(url, prompts[0], 40, **options))
    _an_answer_comes_while_another_is_being_written(url)
    _no_other_model_is_fetched_and_no_other_origin_allowed(url)
    ended(process)


def _an_answer_comes_while_another_is_being_written(url):
    client, arrivals = openai.OpenAI(base_url=f"{url}/v1", api_key="none"), []

    def stream(name, prompt, tokens, begun):
        for piece in client.completions.create(
            model="default_model", prompt=prompt, max_tokens=tokens, temperature=0, stream=True
        ):
            if piece.choices[0].finish_reason is None:
                arrivals.append(name)
                begun.set()

    begun = threading.Event()
    long = threading.Thread(target=stream, args=("long", _prompt(1, 8), 300, begun))
    long.start()
    assert begun.wait(60)
    stream("short", _prompt(2, 8), 10, threading.Event())
    long.join()
    assert arrivals.index("short") < len(arrivals) - arrivals[::-1].index("long") - 1


@pytest.mark.slow
@pytest.mark.parametrize("clients", [2, 4])
@pytest.mark.parametrize("kv", ["q8_0", "K q8_0 V affine8/g64 sink4 recent64"])
def test_a_real_model_answers_clients_at_once_as_it_answers_each_alone(serving, clients, kv):
    url, process = serving("--kv", kv, "--no-compare", model="smollm2-135m")
    prompts = [_prompt(seed, 40 * seed) for seed in range(1, clients + 1)]
    alone = [completion(url, prompt, 24, logprobs=True) for prompt in prompts]
    together = _at_once([lambda prompt=prompt: completion(url, prompt, 24, logprobs=True) for prompt in prompts])
    for one, other in zip(alone, together, strict=True):
        _same_until_a_tie(one, other)
    assert "one at a time" not in ended(process)


def _prompt(seed, words):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def _at_once(jobs):
    """Results of jobs that run in threads, each begun a little after the one before."""
    results = [None] * len(jobs)
    threads = [
        threading.Timer(0.1 * i, lambda i=i, job=job: results.__setitem__(i, job())) for i, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _leave(url, prompt, begun):
    """Read some pieces of a long answer, then close the connection."""
    body = json.dumps({"prompt": prompt, "max_tokens": 400, "temperature": 0, "stream": True}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=240) as reply:
        pieces = (line for line in reply if line.startswith(b"data:"))
        next(pieces)
        begun.set()
        for _ in range(3):
            next(pieces)


def _same_until_a_tie(alone, other):
    """The same tokens with the same probabilities, up to where two are as likely within rounding."""
    pairs = [reply["choices"][0]["logprobs"]["content"] for reply in (alone, other)]
    assert len(pairs[0]) > 5
    for one, two in zip(*pairs, strict=False):
        assert abs(one["logprob"] - two["logprob"]) < NOISE
        if one["id"] != two["id"]:
            return
    assert alone["choices"][0]["text"] == other["choices"][0]["text"]


def _no_other_model_is_fetched_and_no_other_origin_allowed(url):
    with pytest.raises(urllib.error.HTTPError) as refused:
        completion(url, "x", 1, model="some/other-model")
    assert refused.value.code == 404
    assert "one model" in refused.value.read().decode()
    asked = urllib.request.Request(f"{url}/health", headers={"Origin": "http://evil.example"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.headers.get("Access-Control-Allow-Origin") is None
