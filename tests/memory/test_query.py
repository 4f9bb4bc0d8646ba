"""Queries read and nothing else, bounded in time and rows, on both databases."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from swarm.kernels.errors import StoreError, SwarmError, UsageError
from swarm.memory import export, query
from swarm.memory.store import Store

WRITING = [
    "INSERT INTO events(kind, data) VALUES ('x', '{}')",
    "DELETE FROM trials",
    "UPDATE trials SET kld = 0",
    "WITH gone AS (DELETE FROM trials RETURNING id) SELECT * FROM gone",
    "CREATE TABLE x(y int)",
    "CREATE TEMP TABLE x(y int)",
    "DROP TABLE trials",
    "ALTER TABLE trials ADD COLUMN x int",
    "SELECT * INTO stolen FROM trials",
    "SELECT * FROM trials FOR UPDATE",
    "SELECT 1; DELETE FROM trials",
    "SELECT 1; COMMIT; DELETE FROM trials",
    "COMMIT",
    "ROLLBACK; DELETE FROM trials",
    "VACUUM",
    "VACUUM INTO '{folder}/stolen.db'",
    "ATTACH DATABASE '{folder}/stolen.db' AS stolen",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON",
    "PRAGMA query_only = OFF",
    "SELECT load_extension('{folder}/x')",
    "COPY (SELECT 1) TO '{folder}/stolen'",
    "COPY (SELECT 1) TO PROGRAM 'touch {folder}/stolen'",
    "DO $$ BEGIN DELETE FROM trials; END $$",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT nextval('trials_id_seq')",
    "SELECT lo_create(0)",
    "REINDEX",
    "ANALYZE",
    "EXPLAIN ANALYZE DELETE FROM trials",
    "REPLACE INTO measurements(trial_id, metric, value) VALUES (1, 'kld', 0)",
]


@pytest.mark.parametrize("statement", WRITING)
def test_writing_is_refused_and_changes_nothing(store, run, statement, tmp_path):
    trial = run()
    folder = tmp_path / "target"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UsageError) as caught:
        store.query(statement.replace("{folder}", str(folder)))
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
    assert store.trials.get(trial.id) == trial
    assert store.check() == []


def test_settings_do_not_outlive_a_query(store, run):
    trial = run()
    for statement in ("SELECT set_config('default_transaction_read_only', 'off', false)", "SELECT 1"):
        try:
            store.query(statement)
        except UsageError:
            continue
    with pytest.raises(UsageError):
        store.query("DELETE FROM trials")
    assert store.trials.get(trial.id) == trial


RUN = """
import sys
from swarm.kernels.errors import UsageError
from swarm.memory.store import Store

with Store.open(sys.argv[1], readonly=True) as store:
    try:
        store.query(sys.argv[2], seconds=0.3)
    except UsageError as error:
        print(error)
"""
ENDLESS = [
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
]


@pytest.mark.parametrize("statement", ENDLESS)
def test_endless_queries_end(store, statement):
    started = time.monotonic()
    with pytest.raises(UsageError, match="longer than"):
        store.query(statement, seconds=0.3)
    assert time.monotonic() - started < 30


def test_rows_are_bounded(store):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    result = store.query(endless + " LIMIT 100000", limit=7)
    assert [row[0] for row in result.rows] == list(range(1, 8))
    assert result.truncated
    assert not store.query("SELECT 1", limit=1).truncated


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM nowhere", "SELEC 1", "", "   ", "-- nothing", "SELECT 'a", "SELECT 'x\x00y'"]
)
def test_wrong_queries_say_so_in_one_line(store, statement):
    with pytest.raises(UsageError) as caught:
        store.query(statement)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("limit", "seconds"), [(0, 1), (-1, 1), (1, 0), (1, float("nan"))])
def test_senseless_bounds(store, limit, seconds):
    with pytest.raises(UsageError):
        store.query("SELECT 1", limit=limit, seconds=seconds)


def test_giant_values_are_refused(store):
    if store.database.path is None:
        pytest.skip("PostgreSQL bounds a value by itself")
    with pytest.raises(UsageError, match="bytes"):
        store.query("SELECT zeroblob(1000000000)")


def test_a_single_long_instruction_ends_too(store):
    """SQLite looks at the clock between instructions; this one alone would take hours."""
    if store.database.path is None:
        pytest.skip("PostgreSQL interrupts its functions")
    statement = "SELECT instr(zeroblob(9000000), CAST(zeroblob(4000000) || '1' AS blob))"
    finished = subprocess.run(
        [sys.executable, "-c", RUN, str(store.database.path), statement], capture_output=True, text=True, timeout=60
    )
    assert "longer than 0.3 s" in finished.stdout, finished.stderr


def test_a_giant_answer_is_refused_without_holding_it(store, monkeypatch):
    monkeypatch.setattr(query, "MAX_ANSWER", 1_000_000)
    repeated = "hex(zeroblob(50000))" if store.database.path else "repeat('0', 100000)"
    endless = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, {repeated} FROM n"
    with pytest.raises(UsageError, match="first 11 rows"):
        store.query(endless + " LIMIT 10000")
    assert len(store.query(endless + " LIMIT 10").rows) == 10
    assert store.query("SELECT count(*) FROM trials").rows == [(0,)]


def test_no_rows_have_columns(store):
    assert store.query("SELECT 1 AS x, 2 AS y WHERE 1 = 0").columns == ("x", "y")


def test_readonly_store_answers(store, url, run):
    run()
    with Store.open(url, readonly=True) as reader:
        assert reader.query("SELECT count(*) FROM trials").rows == [(1,)]


def test_query_during_a_batch_sees_what_is_committed(store, run):
    run()
    with store.batch():
        run()
        assert store.query("SELECT count(*) FROM trials").rows == [(1,)]
    assert store.query("SELECT count(*) FROM trials").rows == [(2,)]


def test_values_are_plain(store, campaign):
    (record,) = store.query("SELECT name, created_at, settings, 1.5 AS x, 2 AS i, NULL AS n FROM campaigns").records()
    assert record["name"] == campaign.name
    assert record["created_at"].startswith(f"{campaign.created_at:%Y-%m-%d %H:%M}")
    assert (record["x"], record["i"], record["n"]) == (1.5, 2, None)
    export.as_json(store.query("SELECT * FROM campaigns"))


def test_broken_store_is_one_line(store, tmp_path):
    if store.database.path is None:
        pytest.skip("a file's matter")
    store.database.path.rename(tmp_path / "gone.db")
    with pytest.raises(SwarmError) as caught:
        store.query("SELECT 1")
    assert isinstance(caught.value, StoreError)
