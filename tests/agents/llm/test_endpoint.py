from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from swarm.agents.llm import factory
from swarm.agents.llm.budget import FREE, Price, price
from swarm.agents.llm.client import Client
from swarm.agents.llm.dialect import Dialect, strict_schema
from swarm.agents.llm.endpoint import LARGE_MODEL, SMALL_MODEL, LlmEndpoint, LlmSettings, endpoint, hint, local_model
from swarm.agents.llm.prompts import prompt
from swarm.agents.llm.retry import CallError
from swarm.agents.llm.roles.base import roles
from swarm.agents.llm.server import LocalServer
from swarm.experiments import environment
from swarm.experiments.models import registry
from swarm.kernels.errors import UnknownNameError, UsageError


def settings(llm: str, **fields) -> LlmSettings:
    return LlmSettings(llm=llm, **fields)


def test_a_key_is_sent_only_where_it_belongs() -> None:
    both = {"OPENAI_API_KEY": "theirs"}
    assert endpoint(settings("openai"), both).key == "theirs"
    assert endpoint(settings("http://localhost:1/v1"), both).key == ""
    assert endpoint(settings("https://example.org/v1"), both | {"SWARM_LLM_KEY": "mine"}).key == "mine"
    assert "theirs" not in repr(endpoint(settings("openai"), both))


@pytest.mark.parametrize(
    "llm", ["opena1", "ftp://x/v1", "http://", "localhost:8080", "https://me:secret@example.org/v1"]
)
def test_endpoints_that_make_no_sense_are_refused(llm) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint(settings(llm), {})
    assert caught.value.remedy
    assert "secret" not in str(caught.value)


def test_openai_needs_a_key() -> None:
    with pytest.raises(UsageError, match="needs a key"):
        endpoint(settings("openai"), {})


def test_a_key_alone_is_a_hint_and_no_licence() -> None:
    assert "--llm" in hint(settings("none"), {"OPENAI_API_KEY": "x"})
    assert hint(settings("none"), {}) == ""
    assert hint(settings("openai"), {"OPENAI_API_KEY": "x"}) == ""
    assert factory.create(settings("none"), None, 1) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.9/v1", True),
        ("http://[::1]:2/v1", True),
        ("http://10.0.0.1", False),
        ("https://localhost.example.org/v1", False),
    ],
)
def test_loopback_is_told_by_address(url, here) -> None:
    assert LlmEndpoint(url, "m").loopback is here


def test_local_models() -> None:
    assert local_model(settings("local:mlx-community/some-model")) == "mlx-community/some-model"
    assert local_model(settings("local", llm_model="m")) == "m"
    assert local_model(settings("http://localhost/v1")) is None


@pytest.mark.parametrize(
    ("installed", "cores", "device", "chosen"),
    [
        ({LARGE_MODEL, SMALL_MODEL}, 2, "cpu", SMALL_MODEL),
        ({LARGE_MODEL, SMALL_MODEL}, 16, "cpu", LARGE_MODEL),
        ({LARGE_MODEL, SMALL_MODEL}, 2, "cuda", LARGE_MODEL),
        ({LARGE_MODEL}, 2, "cpu", LARGE_MODEL),
        ({SMALL_MODEL}, 16, "metal", SMALL_MODEL),
        (set(), 16, "cpu", SMALL_MODEL),
    ],
)
def test_the_large_model_is_the_default_where_it_is_installed_and_not_too_slow(
    monkeypatch, installed, cores, device, chosen
) -> None:
    infos = [info.model_copy(update={"available": info.name in installed}) for info in registry.catalogue()]
    monkeypatch.setattr(registry, "catalogue", lambda: infos)
    monkeypatch.setattr(environment, "cores", lambda: cores)
    monkeypatch.setattr(environment, "device", lambda: device)
    assert local_model(settings("local")) == chosen


def test_models_that_are_nowhere_are_refused_before_anything_is_made() -> None:
    with pytest.raises(UnknownNameError, match="no-such-model-anywhere"):
        factory.check(settings("local:no-such-model-anywhere"), capped=False)


def test_prices() -> None:
    assert price("gpt-4.1-mini-2025-04-14", settings("openai"), loopback=False, capped=True) == Price(0.4, 1.6)
    assert price("gpt-4.1", settings("openai"), loopback=False, capped=True) == Price(2.0, 8.0)
    given = settings("openai", llm_price_in=1.0, llm_price_out=3.0)
    assert price("anything", given, loopback=False, capped=True).usd(1_000_000, 500_000) == pytest.approx(2.5)
    assert price("anything", settings("x"), loopback=True, capped=True) == FREE
    with pytest.raises(UsageError, match="cannot be kept"):
        price("anything", settings("x"), loopback=False, capped=True)


def test_every_role_has_a_prompt_with_a_version() -> None:
    for name, role in roles().items():
        found = prompt(name)
        assert role.name == name
        assert found.version >= 1
        assert "never an instruction" in found.text
        assert len(found.digest) == 16
    with pytest.raises(UnknownNameError):
        prompt("emperor")


def test_schemas_are_strict_all_the_way_down() -> None:
    def check(node) -> None:
        if isinstance(node, dict):
            assert "default" not in node or isinstance(node["default"], dict)
            if node.get("type") == "object" and "properties" in node:
                assert node["additionalProperties"] is False
                assert node["required"] == list(node["properties"])
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    for role in roles().values():
        check(strict_schema(role.answer))


def test_dialects_end_somewhere() -> None:
    for complaint in ("max_tokens", "temperature", "tools", "response_format", "?"):
        dialect = Dialect()
        steps = 0
        while (simpler := dialect.simpler(complaint)) is not None:
            dialect = simpler
            steps += 1
            assert steps < 10


def test_the_first_model_is_taken_when_none_is_named(server) -> None:
    server.models = ["one", "two"]
    client = Client(LlmEndpoint(server.url, ""), 2.0)
    assert client.model == "one"
    server.models = []
    with pytest.raises(CallError, match="lists no model"):
        _ = Client(LlmEndpoint(server.url, ""), 2.0).model


def test_organisations_of_the_environment_stay_at_home(server, monkeypatch, acts) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.plan = [acts.says("{}")]
    Client(LlmEndpoint(server.url, "m"), 2.0).complete([{"role": "user", "content": "x"}], max_output=64)
    assert "secret" not in str(server.headers)


def test_a_local_server_that_cannot_start_says_why() -> None:
    local = LocalServer("no-such-model-anywhere")
    try:
        with pytest.raises(CallError) as caught:
            local.wait()
    finally:
        local.close()
    assert caught.value.fatal
    assert "no-such-model-anywhere" in caught.value.problem


def test_closing_a_local_server_ends_its_process() -> None:
    local = LocalServer("no-such-model-anywhere")
    pid = _server_of(os.getpid())
    local.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _is_alive(pid):
        time.sleep(0.05)
    with pytest.raises(OSError, match="No such process"):
        os.kill(int(pid), 0)


def test_the_llm_is_put_together_from_settings(server, store, new_campaign) -> None:
    runner = factory.create(settings(server.url), store, new_campaign(usd=1.0))
    assert runner is not None
    assert (runner.samplers(), runner.findings()) == ({}, ())
    runner.close()
    with pytest.raises(UsageError, match="cannot be kept"):
        factory.create(settings("https://example.org/v1", llm_model="m"), store, new_campaign(usd=1.0))


def test_a_local_server_is_gone_with_whoever_started_it(tiny_models) -> None:
    program = (
        "import sys, time; from swarm.agents.llm.server import LocalServer;"
        "server = LocalServer(sys.argv[1]); print('started', flush=True); time.sleep(200)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, tiny_models["llama"]], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        pid = _server_of(parent.pid)
        assert _is_alive(pid)
    finally:
        parent.kill()
        parent.communicate()
    deadline = time.monotonic() + 120
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(pid)


def _server_of(parent: int) -> str:
    """The process of the server that a process has started."""
    command = ["pgrep", "-P", str(parent), "-f", "swarm.agents.llm.server"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def _is_alive(pid: str) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", pid], check=False, capture_output=True, text=True).stdout
    return bool(found.strip()) and not found.strip().startswith("Z")
