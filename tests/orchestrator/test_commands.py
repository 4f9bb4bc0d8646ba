"""Contract of all commands: found by name, light to list, documented, with JSON where they list."""

import inspect
import json
import subprocess
import sys

import pytest

from swarm.kernels import plugins
from swarm.memory.store import Store
from swarm.orchestrator import cli

COMMANDS = plugins.names(cli.PACKAGE)
HEAVY = ("ray", "mlx", "optuna", "transformers", "scipy", "sqlalchemy", "numpy", "pydantic", "openai", "networkx")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_gives_an_example(name):
    command = cli.build(name)
    text = inspect.getdoc(command.callback) or ""
    assert f"`swarm {name}" in text
    assert all(param.help for param in command.params if param.param_type_name == "option")


@pytest.mark.parametrize("name", ["trials", "findings", "models", "methods", "doctor", "status", "query", "review"])
def test_listings_have_a_json_form(name):
    assert "json" in {param.name for param in cli.build(name).params}


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys\nfrom swarm.orchestrator.cli import main\n"
        "for line in (['--help'], ['--version']):\n"
        "    try: main(line)\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert all(name in done.stdout for name in COMMANDS)


def test_methods_are_those_that_a_specification_takes(cli):
    from swarm.kernels.quantizers import base
    from swarm.kernels.spec import QuantSpec

    listed = json.loads(cli("methods", "--json").out)
    assert [row["name"] for row in listed] == list(plugins.names(base.PACKAGE))
    for row in listed:
        assert QuantSpec(method=row["name"]).bits == row["bits"][0]


def test_models_are_described_without_weights(cli):
    listed = {row["name"]: row for row in json.loads(cli("models", "--json").out)}
    assert {"smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"} <= set(listed)
    assert listed["gemma3-270m"]["scale_kind"] == "learned"
    assert listed["qwen2.5-coder-0.5b"]["key_bias"] is True


def test_doctor_checks_every_part(swarm):
    names = [row["name"] for row in json.loads(swarm("doctor", "--json").out)]
    assert names[:7] == ["BLAS", "device", "workers", "Ray", "cache", "store", "LLM"]


def test_doctor_fails_when_something_needs_attention(swarm, tmp_path):
    (tmp_path / "swarm.db").write_text("not a database")
    done = swarm("doctor", "--json")
    assert done.code == 1
    found = {row["name"]: row for row in json.loads(done.out)}
    assert found["store"]["status"] == "failed"
    assert found["store"]["remedy"]


def test_options_of_a_command_come_from_its_table_and_its_variables(cli, tmp_path, monkeypatch):
    (tmp_path / "swarm.toml").write_text("[query]\nlimit = 1\n")
    Store.open(tmp_path / "swarm.db", create=True).close()
    sql = "SELECT 1 AS n UNION ALL SELECT 2"
    assert json.loads(cli("query", sql, "--json").out) == [{"n": 1}]
    monkeypatch.setenv("SWARM_QUERY_LIMIT", "2")
    assert json.loads(cli("query", sql, "--json").out) == [{"n": 1}, {"n": 2}]
    (tmp_path / "swarm.toml").write_text("[query]\nlimits = 1\n")
    assert "'limits'" in cli("query", sql).err
