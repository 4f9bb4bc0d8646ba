"""Engines as processes of ours: they come up, tell why when they do not, and are gone whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stand_in_engines import FATAL, executable

from swarm.experiments.engines.base import engines
from swarm.experiments.engines.run import flags as space
from swarm.experiments.engines.run.flags import EngineSpec
from swarm.experiments.engines.run.process import running
from swarm.experiments.engines.run.startable import (
    MissingEngineError,
    RefusedError,
    StartableEngine,
    startable,
)
from swarm.experiments.models import registry
from swarm.experiments.space.suggest import GivenTrial, RandomTrial
from swarm.kernels.errors import OutOfMemoryError, SpecError, UnknownNameError, UsageError

STARTABLE = [engine.called for engine in engines().values() if isinstance(engine, StartableEngine)]
OWNER = """
import sys, time
from swarm.experiments.engines.run.process import running
from swarm.experiments.engines.run.startable import startable
with running(startable("llama.cpp"), sys.argv[1], {}, context=64) as engine:
    print(engine.launch.port, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    """A file that the stand-in on PATH takes for a model."""
    executable(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    return str(tmp_path / "some.gguf")


def listening(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def gone(port: int) -> bool:
    end = time.monotonic() + 10
    while listening(port):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_an_engine_answers_tells_its_memory_and_ends_with_its_block(model):
    engine = startable("llama.cpp")
    with running(engine, model, {"cache-type-k": "q8_0"}, context=64) as up:
        assert up.alive
        assert up.memory() > 1 << 20
        assert engine.told(up.host, up.model).version == "b1-stand-in"
        pieces = engine.pieces(up.host, up.model, "abcdef")
        found = engine.next_tokens(up.host, up.model, pieces, [2, 3])
    assert [len(expected) for expected in found] == [9, 9]
    assert all(abs(sum(np.exp(list(expected.values()))) - 1) < 1e-9 for expected in found)
    assert gone(up.launch.port)


def test_an_error_in_the_block_ends_the_engine_too(model):
    with pytest.raises(ZeroDivisionError), running(startable("llama.cpp"), model, {}, context=64) as up:
        raise ZeroDivisionError
    assert gone(up.launch.port)


def test_an_engine_that_dies_in_the_block_is_what_the_error_says(model):
    with pytest.raises(OutOfMemoryError), running(startable("llama.cpp"), model, {}, context=64) as up:
        up.endpoint.ask(FATAL, 2)


def test_nothing_is_left_when_its_owner_is_killed_and_others_stay(model):
    owners = [
        subprocess.Popen([sys.executable, "-c", OWNER, model], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        killed, other = (int(owner.stdout.readline()) for owner in owners)
        assert listening(killed)
        assert listening(other)
        owners[0].kill()
        assert gone(killed)
        assert listening(other)
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
            owner.stdout.close()
    assert gone(other)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells processes that their parent has ended")
def test_an_engine_ends_with_its_guard_which_ray_kills_beside_a_worker(model):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, model], stdout=subprocess.PIPE, text=True)
    try:
        port = int(owner.stdout.readline())
        guards = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        assert guards
        for guard in guards:
            os.kill(int(guard), signal.SIGKILL)
        assert gone(port)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        ({"batch-size": 256}, RefusedError, "invalid argument: --batch-size"),
        ({"batch-size": 512}, OutOfMemoryError, "--batch-size 512"),
    ],
)
def test_an_engine_that_does_not_come_up_says_why_with_its_flags(model, flags, error, words):
    with pytest.raises(error, match=words), running(startable("llama.cpp"), model, flags, context=64):
        pass


@pytest.mark.parametrize("name", ["vllm", "ollama", "llama.cpp"])
def test_a_missing_engine_is_named_with_what_installs_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("swarm.experiments.engines.llama_server.find_spec", lambda _: None)
    with pytest.raises(MissingEngineError, match="install"):
        startable(name).executable()


def test_unknown_engines_and_those_that_cannot_be_started():
    with pytest.raises(UnknownNameError, match="ollama"):
        startable("llama.cxx")
    with pytest.raises(UsageError, match="LM Studio cannot be started"):
        startable("lm-studio")


@pytest.mark.parametrize("name", STARTABLE)
@pytest.mark.parametrize("seed", range(3))
def test_parameters_and_flags_are_the_same_thing(name, seed):
    """What every startable engine is held to: its flags come back from the parameters that gave them."""
    offered = startable(name).flags(registry.describe("gemma3-270m"))
    rng = np.random.default_rng(seed)
    for _ in range(20):
        spec = EngineSpec(engine=name, flags=space.suggest(RandomTrial(rng), offered))
        named = space.params(spec, offered)
        assert space.suggest(GivenTrial(named), offered) == spec.flags
        assert EngineSpec.parse(spec.label) == spec


def test_flags_outside_the_space_are_refused():
    offered = startable("llama.cpp").flags(registry.describe("smollm2-135m"))
    for flags, words in (
        ({"cache-type-x": "q8_0"}, "Did you mean 'cache-type-"),
        ({"ubatch-size": 3}, "Choices: 512"),
        ({"flash-attn": "off", "cache-type-v": "q4_0"}, "needs flash-attn=auto"),
    ):
        with pytest.raises(SpecError, match=words):
            space.params(EngineSpec(engine="llama.cpp", flags=flags), offered)


@pytest.mark.slow  # a whole trial on it runs with the default tests, in test_engine.py of protocols
def test_llama_cpp_itself_starts_and_quantizes_its_cache():
    pytest.importorskip("xllamacpp")
    engine, found = startable("llama.cpp"), []
    for flags in ({}, {"cache-type-k": "q4_0", "cache-type-v": "q4_0"}):
        with running(engine, "smollm2-135m", flags, context=256) as up:
            pieces = engine.pieces(up.host, up.model, "The quick brown fox jumps over the lazy dog. " * 8)
            found += engine.next_tokens(up.host, up.model, pieces, [60])
            assert up.memory() > 50 << 20
    exact, coarse = found
    assert exact != coarse
    assert max(exact, key=exact.__getitem__) == max(coarse, key=coarse.__getitem__)


def test_llama_cpp_itself_refuses_a_file_that_is_no_model(tmp_path):
    pytest.importorskip("xllamacpp")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    with (
        pytest.raises(RefusedError, match="llama-server ended"),
        running(startable("llama.cpp"), str(bad), {}, context=64),
    ):
        pass


def test_no_proxy_is_asked_for_an_engine_on_this_machine(model, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running(startable("llama.cpp"), model, {}, context=64) as up:
        assert up.endpoint.ask("abc", 2).completion_tokens == 2
