"""The test of a server's cache, on a stand-in whose faults and noise are known."""

from __future__ import annotations

import json
from math import exp, log

import numpy as np
import pytest

from swarm.experiments.engines.base import Host, Reply
from swarm.experiments.engines.llama_server import LlamaServer
from swarm.experiments.engines.run.startable import NoProbabilitiesError, RefusedError
from swarm.experiments.engines.verify import features, verdict
from swarm.experiments.engines.verify.answers import ServerUnderTest, difference
from swarm.experiments.text import Corpus

TEXT = Corpus.open().text
WORDS = [f" w{number}" for number in range(10)]


class StandIn(Host):
    """Says which of ten words comes next by the last words; with noise, and more where the planted feature is used."""

    def __init__(self, seed, fault="", noise=1e-3, share=1.0):
        self.rng = np.random.default_rng(seed)
        self.fault, self.noise, self.share = fault, noise, share
        self.seen = []

    def get(self, path):
        return Reply(404)

    def post(self, path, body):
        prompt = body["prompt"]
        known = body.get("cache_prompt", True) and prompt in self.seen
        shared = body.get("cache_prompt", True) and any(prompt[:14] == other[:14] for other in self.seen[-1:])
        crossed = body["max_tokens"] == features.TAIL and len(prompt.split()) > 20
        hit = {
            "reuse": known and self.seen[-1] == prompt,
            "parted": shared and self.seen[-1] != prompt,
            "chunk": crossed,
        }
        hurt = hit.get(self.fault, False) and self.rng.random() < self.share
        self.seen.append(prompt)
        words, places = prompt.split(), []
        for _ in range(body["max_tokens"]):
            base = np.random.default_rng([ord(c) for c in words[-1]]).normal(size=10)
            logits = base + self.rng.normal(size=10) * (0.2 if hurt else self.noise)
            logprobs = logits - log(sum(map(exp, logits)))
            places.append({"top_logprobs": [{"id": n, "logprob": float(x)} for n, x in enumerate(logprobs)]})
            words.append(WORDS[int(base.argmax())].strip())
        text = "".join(f" {word}" for word in words[len(prompt.split()) :])
        choice = {"text": text, "logprobs": {"content": places}}
        usage = {"prompt_tokens": len(prompt.split())}
        return Reply(200, json.dumps({"choices": [choice], "usage": usage}))


def verify(host, seed=0, rounds=12, border=0):
    server = ServerUnderTest(host, LlamaServer(), "m")
    tested = [features.REUSE, features.PARTED, features.SLOTS]
    tested += [features.border("chunk", "the next chunk", border)] if border else []
    texts = features.Texts.measured(server, TEXT, seed)
    return verdict.run(server, texts, tested, tokens=12, clients=2, rounds=rounds, seconds=60)


@pytest.mark.parametrize("seed", range(12))
def test_a_clean_server_is_not_blamed(seed):
    noise = (0.0, 1e-4, 1e-2, 0.1)[seed % 4]
    found = verify(StandIn(seed, noise=noise), seed)
    assert found.blamed == ()
    assert 6 <= found.rounds < 12  # those that are left could blame nothing
    assert found.rounds < found.calibrations <= 2 * found.rounds
    assert all(one.e_value < 1 for one in found.suspicions)


class NoisyWhenLong(StandIn):
    """A clean server that rounds in steps: differences are none, or large, and large ones come with longer prompts."""

    def post(self, path, body):
        self.noise = 0.05 if len(body["prompt"].split()) > 30 and self.rng.random() < 0.7 else 0.0
        return super().post(path, body)


def test_longer_prompts_are_not_blamed_for_the_noise_that_they_have_anyway():
    """The noise of the shorter prompts of a round is none here."""
    assert [seed for seed in range(12) if verify(NoisyWhenLong(seed), seed, border=48).blamed] == []


@pytest.mark.parametrize("fault", ["reuse", "parted", "chunk"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_feature_at_fault_is_named_and_the_run_ends_early(fault, seed):
    found = verify(StandIn(seed, fault), seed, border=24 if fault == "chunk" else 0)
    assert [one.feature for one in found.blamed] == [fault]
    assert found.rounds < 12
    worst = found.blamed[0]
    assert worst.largest > 3 * found.noise
    assert 1 <= worst.worst_round <= found.rounds
    assert worst.e_value >= len(found.suspicions) / verdict.ALPHA


def test_a_fault_that_shows_now_and_then_is_found_later():
    often, seldom = (verify(StandIn(5, "reuse", share=share), rounds=40).rounds for share in (1.0, 0.5))
    assert often < seldom < 40


def test_few_rounds_say_nothing():
    found = verify(StandIn(0, "reuse"), rounds=2)
    assert found.blamed == ()
    assert found.is_undecided
    assert not verify(StandIn(0, "reuse"), rounds=6).is_undecided


class FewLogprobs(StandIn):
    """A server that names at most five tokens."""

    def post(self, path, body):
        if body.get("logprobs", 0) > 5:
            return Reply(400, json.dumps({"error": {"message": "logprobs must be at most 5"}}))
        return super().post(path, body)


def test_a_server_that_names_few_tokens_is_asked_for_few():
    found = verify(FewLogprobs(0, "reuse"))
    assert [one.feature for one in found.blamed] == ["reuse"]


def test_differences_count_up_to_where_the_texts_part():
    a = [{"x": log(0.9), "y": log(0.1)}, {"x": log(0.6), "y": log(0.4)}, {"x": log(0.9), "y": log(0.1)}]
    b = [a[0], {"x": log(0.4), "y": log(0.6)}, {"x": log(0.1), "y": log(0.9)}]
    change = 0.6 * log(0.6 / 0.4) + 0.4 * log(0.6 / 0.4)
    assert difference(a, b) == pytest.approx((0 + change) / 2)
    assert difference(a, a) == 0
    assert difference(a, []) is None
    assert difference([{"x": log(0.7), "z": log(0.3)}], [{"x": log(0.7), "y": log(0.2)}]) == pytest.approx(
        0.3 * (log(0.3) - log(0.2))
    )


class Answers(StandIn):
    """A server that always answers the same."""

    def __init__(self, status, body):
        self.reply = Reply(status, json.dumps(body))

    def post(self, path, body):
        return self.reply


def test_both_forms_of_probabilities_are_read():
    legacy = {"text": "a", "logprobs": {"top_logprobs": [{"a": -0.1, "b": -2.5}]}}
    server = ServerUnderTest(Answers(200, {"choices": [legacy]}), LlamaServer(), "m")
    assert server.ask("hello", 1).tops == ({"a": -0.1, "b": -2.5},)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (200, {"choices": [{"text": "a"}]}, NoProbabilitiesError, "no log-probabilities"),
        (200, {"choices": [{"text": "a", "logprobs": None}]}, NoProbabilitiesError, "no log-probabilities"),
        (400, {"error": {"message": "too long"}}, RefusedError, "too long"),
        (200, {}, RefusedError, "refuses"),
    ],
)
def test_servers_that_cannot_be_tested_say_why(status, body, kind, said):
    with pytest.raises(kind, match=said):
        ServerUnderTest(Answers(status, body), LlamaServer(), "m").ask("hello", 1)
