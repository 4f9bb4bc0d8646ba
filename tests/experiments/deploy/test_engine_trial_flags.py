"""From the flags of an engine trial to a command line of that engine and of others, and to a configuration of ours."""

from __future__ import annotations

import pytest

from swarm.experiments.deploy import engine_flags
from swarm.experiments.engines.base import engines, named
from swarm.experiments.engines.run.flags import EngineSpec
from swarm.experiments.engines.run.startable import StartableEngine
from swarm.experiments.models import registry

STARTABLE = [name for name, engine in engines().items() if isinstance(engine, StartableEngine)]


@pytest.mark.parametrize("called", STARTABLE)
def test_every_value_of_every_flag_comes_back_in_the_command_of_its_engine(called):
    engine = named(called)
    assert isinstance(engine, StartableEngine)
    for flag in engine.flags(registry.describe("gemma3-270m")):
        for value in flag.values:
            spec = EngineSpec(engine=called, flags={flag.name: value})
            said = engine_flags.of_engine(engine, spec)
            name = flag.name if flag.name.isupper() else f"--{flag.name}"
            assert said.lost == ()
            assert said.command.count(name) == 1 or value == "disabled", said.command
            assert str(value) in said.command or value in ("enabled", "disabled"), said.command
            assert engine_flags.stored(spec).label


def test_what_another_engine_stores_comes_nearest_and_other_flags_are_named_as_lost():
    spec = EngineSpec(engine="llama.cpp", flags={"cache-type-k": "q8_0", "cache-type-v": "q8_0", "ubatch-size": 64})
    same = engine_flags.of_engine(named("llama.cpp"), spec)
    for option in ("--cache-type-k q8_0", "--cache-type-v q8_0", "--ubatch-size 64"):
        assert same.command.count(option) == 1
    assert engine_flags.stored(spec).key.method == "q8_0"
    other = engine_flags.of_engine(named("ollama"), spec)
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in other.command
    assert other.lost[-1] == "of llama.cpp: --ubatch-size 64"
    assert (
        engine_flags.stored(EngineSpec(engine="ollama", flags={"OLLAMA_KV_CACHE_TYPE": "q4_0"})).value.method == "q4_0"
    )
