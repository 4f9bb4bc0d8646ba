"""Queries read and nothing else, bounded in time and rows, on both databases."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from swarm.kernels.errors import SwarmError, UsageError
from swarm.memory import query
from swarm.memory.errors import StoreError
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


ACTING = [
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT 1 LIMIT length(pg_notify('a', 'b')::text)",
    "SELECT count(*) FILTER (WHERE pg_read_file('/etc/hostname') <> '') FROM generate_series(1, 2)",
    "SELECT * FROM pg_ls_dir('/tmp')",
    "SELECT lo_export(1, '/tmp/stolen')",
    "SELECT (SELECT pg_create_physical_replication_slot('stolen'))",
    "WITH x AS (SELECT pg_advisory_lock(1)) SELECT 1 FROM x",
    "SELECT set_config('role', 'none', false)",
    "SELECT query_to_xml('SELECT pg_stat_reset()', true, false, '')",
    "SELECT rank() OVER (ORDER BY pg_switch_wal()) FROM generate_series(1, 2)",
]


@pytest.mark.parametrize("statement", ACTING)
def test_functions_that_act_are_refused(store, statement):
    """A transaction that cannot write lets them pass, and the tests' role may do anything."""
    if store.database.path is not None:
        pytest.skip("SQLite's authorizer is tested above")
    with pytest.raises(UsageError, match="calls"):
        store.query(statement)
    assert store.query("SELECT count(*) FROM pg_replication_slots").rows == [(0,)]


def test_functions_that_only_read_are_answered(store, run):
    run()
    if store.database.path is None:
        statement = "SELECT random(), now(), pg_relation_size('trials'), lower('A')"
        assert len(store.query(statement).rows) == 1
        with pytest.raises(UsageError, match="wrong"):
            store.query("SELECT $1")
    assert store.query("SELECT length(':funcid 1598 calls(') FROM trials").rows == [(19,)]
    assert store.query("SELECT count(*), min(kld), lower(upper('A')) FROM trials").rows[0][2] == "a"


def test_columns_of_one_name_keep_their_values(store):
    answer = store.query("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a")
    assert answer.columns == ("a", "a_3", "a_2", "a_4")
    assert answer.records() == [{"a": 1, "a_3": 2, "a_2": 3, "a_4": 4}]


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
    command = [sys.executable, "-c", RUN, str(store.database.path), statement]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
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
    json.dumps(store.query("SELECT * FROM campaigns").records())


def test_broken_store_is_one_line(store, tmp_path):
    if store.database.path is None:
        pytest.skip("a file's matter")
    store.database.path.rename(tmp_path / "gone.db")
    with pytest.raises(SwarmError) as caught:
        store.query("SELECT 1")
    assert isinstance(caught.value, StoreError)
