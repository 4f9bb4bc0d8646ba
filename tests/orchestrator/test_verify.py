"""`swarm verify` on a real mlx_lm.server, and on one with a planted fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from engine_server import free_port, wait_until_up

from swarm.experiments.models import registry
from swarm.orchestrator.commands import schema as schemas

ROOT = Path(__file__).resolve().parents[2]


def test_a_clean_server_is_tested_and_not_blamed(cli, mlx_server):
    given = ("verify", "--endpoint", mlx_server.url, "--rounds", "2", "--tokens", "24")
    done = cli(*given, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    jsonschema.validate(found, schemas.schema("verify"))
    assert (found["engine"], found["rounds"], found["show_with"]) == ("mlx_lm", 2, [])
    by_name = {one["feature"]: one for one in found["suspicions"]}
    assert set(by_name) == {"reuse", "parted", "slots"}
    assert by_name["reuse"]["cached"] > 0
    assert "--chunk" in done.err  # 2,048 tokens are not tested without being asked for
    done = cli(*given, "--feature", "reuse", "--round", "1")
    assert done.code == 0, done.err
    assert "reuse: a prompt asked again" in done.out
    assert "without" in done.out


def test_another_server_of_the_same_model_to_compare_with(cli, mlx_server):
    done = cli(
        "verify", "--endpoint", mlx_server.url, "--against", mlx_server.url, "--rounds", "1", "--tokens", "24",
        "--feature", "reuse",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "not judged" in done.out  # one round has two calibrations
    assert "give more --rounds" in done.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "Give --engine or --endpoint"),
        (("--engine", "llama.cpp"), "Give --engine and --model"),
        (("--engine", "lm-studio", "--model", "x"), "cannot be started"),
        (("--endpoint", "http://127.0.0.1:9"), "nothing answers"),
        (("--endpoint", "http://127.0.0.1:9", "--shift", "512"), "Give --against"),
        (("--endpoint", "U", "--feature", "magic"), "unknown feature 'magic'"),
    ],
)
def test_mistakes_get_one_line(cli, mlx_server, args, said):
    done = cli("verify", *(mlx_server.url if arg == "U" else arg for arg in args))
    assert done.code in (1, 2)
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.skipif("smollm2-135m" not in registry.default_models(), reason="needs a bundled model")
def test_a_planted_fault_is_named_and_its_command_shows_it(cli, tmp_path):
    port = str(free_port())
    line = [sys.executable, "-m", "benchmarks._faulty_server", "smollm2-135m", port, "reuse", "drop"]
    process = subprocess.Popen(line, cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(f"{url}/health", process)
        done = cli("verify", "--endpoint", url, "--remembered", "1", "--json")
        assert done.code == 1, done.err
        found = json.loads(done.out)
        assert "reuse" in [one["feature"] for one in found["suspicions"] if one["blamed"]]
        shown = cli(*found["show_with"][0].split()[1:])
        assert shown.code == 0, shown.err
        assert "nat" in shown.out
    finally:
        process.kill()
        process.wait()
