"""Rows as text and files, and a campaign as Optuna studies."""

from __future__ import annotations

import csv
import json
import math

import pytest
from samples import fail

from swarm.kernels.errors import UsageError
from swarm.memory import export, optuna_export
from swarm.memory.errors import StoreError
from swarm.memory.records import TrialRecord

COLUMNS = ("name", "value")
HOSTILE = [('a,"b"\nc\x1b[2J', 1.25), ("ß\t=1+1", None), ("x" * 500, math.nan)]


def test_csv_and_json_keep_the_data(tmp_path):
    path = {ending: tmp_path / f"out.{ending}" for ending in ("csv", "json", "jsonl")}
    for place in path.values():
        assert export.write(COLUMNS, HOSTILE, place) == 3
    rows = list(csv.reader(path["csv"].open(newline="")))
    assert rows[0] == list(COLUMNS)
    assert [row[0] for row in rows[1:]] == [row[0] for row in HOSTILE]
    records = json.loads(path["json"].read_text())
    assert records[0] == {"name": 'a,"b"\nc\x1b[2J', "value": 1.25}
    assert records[2]["value"] is None
    assert [json.loads(line) for line in path["jsonl"].read_text().splitlines()] == records


def test_unknown_format(tmp_path):
    with pytest.raises(UsageError, match="parquet"):
        export.write(("a",), [(1,)], tmp_path / "out.xml")


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_trials_to_a_file(store, run, add, tmp_path, ending):
    run(0.1, 4.5)
    run(0.2, 5.5, {"same_top1": 0.9}, model="beta", rationale='say "hi"')
    add()
    path = tmp_path / f"out.{ending}"
    assert export.trials(store, path) == 3
    if ending == "csv":
        rows = list(csv.DictReader(path.open()))
    elif ending == "json":
        rows = json.loads(path.read_text())
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        rows = pq.read_table(path).to_pylist()
    assert [row["model"] for row in rows] == ["alpha", "beta", "alpha"]
    assert float(rows[1]["kld"]) == 0.2
    assert float(rows[1]["same_top1"]) == 0.9
    assert not rows[2]["kld"]
    assert json.loads(rows[1]["spec"])["kv"]["key"]["bits"] == 4
    assert list(tmp_path.glob(".*")) == []


def test_records_to_json_lines(store, campaign, run, tmp_path):
    trials = [run(), run()]
    assert export.trials(store, tmp_path / "out.jsonl", campaign.id) == 2
    again = [TrialRecord.model_validate_json(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert again == trials


def test_empty_store_exports(store, tmp_path):
    for ending in ("csv", "json", "jsonl", "parquet"):
        assert export.trials(store, tmp_path / f"out.{ending}") == 0


def test_unwritable_target(store, tmp_path):
    with pytest.raises(StoreError):
        export.trials(store, tmp_path / "no" / "out.csv")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_opens_it(store, campaign, run, add, tmp_path):
    import optuna

    run(0.1, 4.5)
    run(0.3, 2.5, bits=2, layers=(1, 2))
    failed = add()
    fail(store, store.queue.claim(failed.id, "one"), "oom")
    run(0.2, 8.5, model="beta", bits=8)
    add()
    url = f"sqlite:///{tmp_path}/optuna.db"
    names = optuna_export.export(store, url)
    assert names == ["first/alpha/quality", "first/beta/quality"]
    study = optuna.load_study(study_name=names[0], storage=url)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert study.trials[1].values == [0.3, 2.5]
    assert study.trials[1].params["key_bits"] == 2
    assert study.trials[1].params["layers"] == "1,2"
    assert study.trials[0].user_attrs["proposer"] == "tpe"
    assert {trial.number for trial in study.best_trials} == {0, 1}
    with pytest.raises(UsageError):
        optuna_export.export(store, url)


def test_optuna_stays_out_of_a_store(store, url, campaign, run):
    """Both have a table `trials`: with Optuna's beside them nothing of ours could be written any more."""
    trial = run(0.1, 4.5)
    target = f"sqlite:///{url}" if store.database.path else url
    with pytest.raises(UsageError, match="store of kv-swarm"):
        optuna_export.export(store, target)
    assert store.check() == []
    assert store.trials.get(trial.id) == trial
    assert run(0.2, 4.5).state == "complete"


def test_what_optuna_cannot_write_is_one_line(store, campaign, run, tmp_path):
    run(0.1, 4.5)
    (tmp_path / "notes.db").write_bytes(b"SQLite format 3\x00" + b"x" * 5000)
    for target in (f"sqlite:///{tmp_path}/notes.db", f"sqlite:///{tmp_path}/no/optuna.db", "nothing://x"):
        with pytest.raises(StoreError) as caught:
            optuna_export.export(store, target)
        assert "\n" not in str(caught.value)


def test_nothing_for_optuna(store, campaign, tmp_path):
    with pytest.raises(UsageError):
        optuna_export.export(store, f"sqlite:///{tmp_path}/optuna.db")
