"""What commands print as JSON is what their schemas say."""

import json

import jsonschema
import pytest
from samples import complete, fail, finding, measurement, proposal

from swarm.kernels import plugins
from swarm.memory.records import Budget, Prediction, Summary
from swarm.memory.store import Store
from swarm.orchestrator.cli import PACKAGE, build
from swarm.orchestrator.commands import schema as schemas

PRINTING = [name for name in plugins.names(PACKAGE) if "json" in {param.name for param in build(name).params}]
LINES = [
    ("bench", "--json"),
    ("doctor", "--json"),
    ("findings", "--json"),
    ("graph", "--ancestors", "trial:2", "--json"),
    ("graph", "--influential", "3", "--json"),
    ("methods", "--json"),
    ("models", "--json"),
    ("plan", "--model", "gemma 3 27b", "--machine", "m4 max", "--memory", "64", "--kv", "affine", "--json"),
    ("query", "SELECT id, model, kld FROM trials", "--json"),
    ("query", "--views", "--json"),
    ("recommend", "--model", "smollm2-135m", "--bits", "16", "--json"),
    ("review", "--json"),
    ("review", "1", "--json"),
    ("review", "1", "--accept", "--json"),
    ("show", "trial", "2", "--json"),
    ("show", "finding", "1", "--json"),
    ("show", "proposal", "1", "--json"),
    ("show", "summary", "1", "--json"),
    ("status", "--json"),
    ("trials", "--json"),
]
NEED_A_MODEL = {"decide", "generate", "probe", "recipe", "reproduce", "verify"}
# A new command is run as it is, until a line above says more.
LINES += [(name, "--json") for name in PRINTING if name not in NEED_A_MODEL | {line[0] for line in LINES}]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schemas")
    with Store.open(folder / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {"corpus": None}, Budget(trials=5, usd=1.5), 0)
        for number in range(3):
            prediction = Prediction(metric="kld", comparator="<=", threshold=0.5) if number else None
            record = store.propose(campaign.id, number, proposal(number, prediction=prediction))
            lease = store.queue.claim(record.id, "me")
            if number == 2:
                fail(store, lease, "oom", "no memory")
            else:
                complete(store, lease, measurement())
        store.findings.upsert(campaign.id, finding(1))
        text = "The KLD is {trial:1:kld} after {fact:trials.complete} trials."
        store.summaries.add(campaign.id, Summary(title="Found", text=text, evidence=(1,), author="scribe"))
    return folder


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_what_is_printed_is_what_the_schema_says(cli, kept, monkeypatch, line):
    monkeypatch.chdir(kept)
    done = cli(*line)
    schema = schemas.schema(line[0])
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(done.out), schema, cls=jsonschema.Draft202012Validator)
    assert done.out not in ("[]\n", "{}\n")


def test_every_command_that_prints_json_has_a_schema(cli):
    assert set(PRINTING) <= set(schemas.printing_json())
    assert set(json.loads(cli("schema").out)) == set(schemas.printing_json())
    assert cli("schema", "launch").code == 2


def test_a_schema_refuses_keys_that_nobody_declared():
    schema = schemas.schema("doctor")
    check = {"name": "store", "status": "ok", "detail": "", "remedy": ""}
    jsonschema.validate([check], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{**check, "more": 1}], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{**check, "status": "fine"}], schema)
