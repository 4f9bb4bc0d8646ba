"""Contract of all commands: found by name, light to list, documented, with JSON where they list."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from swarm.kernels import plugins
from swarm.memory.store import Store
from swarm.orchestrator import settings
from swarm.orchestrator.cli import PACKAGE, build
from swarm.orchestrator.commands import doctor

COMMANDS = plugins.names(PACKAGE)
HEAVY = ("ray", "mlx", "optuna", "transformers", "scipy", "sqlalchemy", "numpy", "pydantic", "openai", "networkx")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_its_examples_parse(name, cli):
    command = build(name)
    assert command.help
    assert all(param.help for param in command.params if param.param_type_name == "option")
    examples = (command.epilog or "").splitlines()
    assert examples
    shown = cli(name, "--help").out
    for example in examples:
        assert f"\n  {example}\n" in shown
        _, called, *words = shlex.split(example)
        end = next((place for place, word in enumerate(words) if word in "<>|"), len(words))
        with build(called).make_context(called, words[:end], resilient_parsing=False) as context:
            assert called == name or example != examples[0]
            assert context.params


def test_completion_knows_commands_and_options():
    def complete(*words):
        env = {"_SWARM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        script = [sys.executable, "-c", "from swarm.orchestrator.cli import main; main()"]
        done = subprocess.run(script, capture_output=True, text=True, check=True, env={**os.environ, **env})
        return done.stdout.split()

    assert complete("swarm", "lau") == ["launch"]
    assert "--budget" in complete("swarm", "launch", "--bud")


@pytest.mark.parametrize("name", ["trials", "findings", "models", "methods", "doctor", "status", "query", "review"])
def test_listings_have_a_json_form(name):
    assert "json" in {param.name for param in build(name).params}


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


def test_doctor_checks_every_part(cli):
    names = [row["name"] for row in json.loads(cli("doctor", "--json").out)]
    assert names[:8] == ["BLAS", "device", "workers", "Ray", "cache", "downloads", "store", "LLM"]


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ({}, "off", "built-in statistics"),
        ({"llm_model": "right"}, "ok", "right at http"),
        ({"llm_model": "wrong"}, "missing", "no model 'wrong'"),
        ({"llm": "http://127.0.0.1:9"}, "failed", "127.0.0.1:9"),
        ({"llm": "magic"}, "failed", "'magic'"),
    ],
)
def test_doctor_asks_the_llm_which_models_it_has(flags, status, said):
    from engine_server import FakeEngine

    listed = json.dumps({"object": "list", "data": [{"id": "right", "object": "model"}]}).encode()
    with FakeEngine(lambda *_: (200, {"Content-Type": "application/json"}, [listed])) as fake:
        llm = flags.get("llm", fake.url if flags else "none")
        found = doctor.llm_check(settings.load(**{**flags, "llm": llm}))
    assert found.status == status, found
    assert said in found.detail
    assert (status in ("ok", "off")) is not bool(found.remedy)


def test_doctor_fails_when_something_needs_attention(cli, tmp_path):
    (tmp_path / "swarm.db").write_text("not a database")
    done = cli("doctor", "--json")
    assert done.code == 1
    found = {row["name"]: row for row in json.loads(done.out)}
    assert found["store"]["status"] == "failed"
    assert found["store"]["remedy"]


def test_an_unknown_key_in_a_table_is_an_error_that_leaves_the_help(cli, tmp_path):
    (tmp_path / "swarm.toml").write_text("[query]\nlimti = 1\n")
    done = cli("query", "SELECT 1")
    assert (done.code, "'limti' in [query]" in done.err) == (2, True)
    for line in (["--help"], ["query", "--help"], ["methods"]):
        assert cli(*line).code == 0


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    command = [sys.executable, "-c", "from swarm.orchestrator.cli import main; main()", "methods", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_looks_into_the_weights(monkeypatch, tmp_path):
    from swarm.experiments.models import registry

    damaged = next(iter(registry.bundled().values()))
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    folder = tmp_path / "models" / f"{damaged.name}-{damaged.digest[:12]}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"files": {"model.safetensors": "0"}}')
    (folder / "model.safetensors").write_bytes(b"cut short")
    found = {check.name: check for check in doctor.model_checks()}
    assert found[f"model {damaged.name}"].status == "failed"
    assert str(folder) in found[f"model {damaged.name}"].remedy


def test_options_of_a_command_come_from_its_table_and_its_variables(cli, tmp_path, monkeypatch):
    (tmp_path / "swarm.toml").write_text("[query]\nlimit = 1\n")
    Store.open(tmp_path / "swarm.db", create=True).close()
    sql = "SELECT 1 AS n UNION ALL SELECT 2"
    assert json.loads(cli("query", sql, "--json").out) == [{"n": 1}]
    monkeypatch.setenv("SWARM_QUERY_LIMIT", "2")
    assert json.loads(cli("query", sql, "--json").out) == [{"n": 1}, {"n": 2}]
    (tmp_path / "swarm.toml").write_text("[query]\nlimits = 1\n")
    assert "'limits'" in cli("query", sql).err


def test_trials_are_exported_and_their_lineage_asked(cli, tmp_path):
    from samples import complete, measurement, proposal

    from swarm.memory.records import Budget

    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("one", {}, Budget(trials=5), 0)
        for number in range(5):
            record = store.propose(campaign.id, number, proposal(number))
            complete(store, store.queue.claim(record.id, "me"), measurement(kld=0.1 * (number + 1)))
    assert cli("export", "out.jsonl").code == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(5))
    best = json.loads(cli("trials", "--best", "2", "--json").out)
    assert [row["kld"] for row in best] == pytest.approx([0.1, 0.2])
    assert [row["number"] for row in json.loads(cli("trials", "--pareto", "--json").out)] == [0]
    nodes = json.loads(cli("graph", "--ancestors", "trial:3", "--json").out)
    assert [node["node"] for node in nodes] == ["proposal:3"]
    assert cli("graph").out.startswith("digraph")
    assert cli("graph", "--ancestors", "trial:99").code == 2
    assert cli("export", "out.xyz").code == 2
    status = json.loads(cli("status", "--json").out)
    assert status["trials"] == {"complete": 5}
    assert json.loads(cli("show", "trial", "1", "--json").out)["number"] == 0


def test_infinite_numbers_and_equal_names_are_printed(cli, tmp_path):
    Store.open(tmp_path / "swarm.db", create=True).close()
    done = cli("query", "SELECT 9e999 AS x, 1 AS x", "--json")
    assert json.loads(done.out) == [{"x": None, "x_2": 1}], done.err
    assert cli("query", "SELECT 2 AS x, 1 AS x").out.split() == ["x", "x_2", "2", "1"]


def test_an_answer_goes_into_a_file(cli, tmp_path):
    import pyarrow.parquet

    Store.open(tmp_path / "swarm.db", create=True).close()
    sql = "SELECT 1 AS n, 'a' AS word UNION ALL SELECT 2, NULL"
    for name in ("rows.parquet", "rows.csv", "rows.jsonl", "rows.json"):
        done = cli("query", sql, "--out", name)
        assert (done.code, done.out) == (0, f"2 rows are in {name}.\n"), done.err
    rows = [{"n": 1, "word": "a"}, {"n": 2, "word": None}]
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    assert (tmp_path / "rows.csv").read_text() == "n,word\n1,a\n2,\n"
    assert cli("query", sql, "--out", "rows.txt").code == 2
