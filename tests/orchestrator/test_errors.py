"""Bad input: one line that names the thing and the remedy, the right exit code, and a store that stays as it was."""

import sqlite3

import pytest

from swarm.memory.store import Store


@pytest.mark.parametrize(
    ("line", "code", "names"),
    [
        (["nonsense"], 2, "nonsense"),
        (["launch", "--nonsense"], 2, "--nonsense"),
        (["launch", "--budget", "0"], 2, "--budget"),
        (["launch", "--budget", "-3"], 2, "--budget"),
        (["launch", "--budget", "many"], 2, "--budget"),
        (["launch", "--budget", "1" + "0" * 30], 2, "--budget"),
        (["launch", "--seed", "1" + "0" * 30], 2, "--seed"),
        (["launch", "--context", "1" + "0" * 30], 2, "--context"),
        (["launch", "--max-tokens", "1" + "0" * 30], 2, "--max-tokens"),
        (["launch", "--max-usd", "1e300"], 2, "--max-usd"),
        (["launch", "--trial-timeout", "1" + "0" * 30], 2, "--trial-timeout"),
        (["launch", "--workers", "0"], 2, "--workers"),
        (["launch", "--control-share", "1.5"], 2, "--control-share"),
        (["launch", "--time-limit", "soon"], 2, "--time-limit"),
        (["launch", "--models", "nonsense"], 2, "nonsense"),
        (["launch", "--models", "a,a"], 2, "--models"),
        (["launch", "--corpus", "nowhere.txt", "--models", "smollm2-135m"], 2, "nowhere.txt"),
        (["launch", "--store", "mysql://host/db"], 2, "mysql"),
        (["launch", "--ray-address", "nowhere"], 2, "nowhere"),
        (["launch", "--ray-address", "127.0.0.1:1"], 2, "127.0.0.1:1"),
        (["launch", "--rehearsal", "5,explode@3"], 2, "explode@3"),
        (["methods", "nonsense"], 2, "nonsense"),
        (["models", "nonsense"], 2, "nonsense"),
        (["resume"], 1, "swarm.db"),
        (["trials"], 1, "swarm.db"),
        (["trials", "--state", "odd"], 2, "odd"),
        (["trials", "--protocol", "odd"], 2, "quality"),
        (["show", "thing", "1"], 2, "thing"),
        (["show", "trial", "one"], 2, "ID"),
        (["query"], 2, "--views"),
        (["review", "--accept"], 2, "number"),
        (["review", "1", "--accept", "--reject"], 2, "--accept"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line(cli, line, code, names):
    done = cli(*line)
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert names in done.err


@pytest.fixture
def full(tmp_path):
    """A store with one finished trial."""
    from samples import complete, measurement, proposal

    from swarm.memory.records import Budget

    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("one", {}, Budget(trials=3), 0)
        record = store.propose(campaign.id, 0, proposal(0))
        lease = store.queue.claim(record.id, "me")
        complete(store, lease, measurement())
    return tmp_path / "swarm.db"


def dump(path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [line for line in connection.iterdump() if not line.startswith("PRAGMA")]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM trials",
        "DROP TABLE trials",
        "SELECT 1; DELETE FROM trials",
        "ATTACH 'other.db' AS other",
        "PRAGMA journal_mode=DELETE",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM t) SELECT count(*) FROM t",
        "nonsense",
    ],
)
def test_a_query_can_only_read_and_not_for_ever(cli, full, sql):
    before = dump(full)
    done = cli("query", sql, "--seconds", "0.5")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert dump(full) == before


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"", b"SQLite format 3\0" + bytes(4080)])
def test_a_foreign_or_damaged_file_is_refused_and_left_alone(cli, tmp_path, content):
    path = tmp_path / "other.db"
    path.write_bytes(content)
    done = cli("trials", "--store", "other.db")
    assert done.code == 1
    assert "other.db" in done.err
    assert done.err.count("\n") == 1
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(cli, tmp_path):
    with sqlite3.connect(tmp_path / "theirs.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = (tmp_path / "theirs.db").read_bytes()
    done = cli("launch", "--store", "theirs.db", "--rehearsal", "1")
    assert done.code == 1
    assert "theirs.db" in done.err
    assert (tmp_path / "theirs.db").read_bytes() == before


def test_a_campaign_that_exists_points_to_resume(cli, full):
    done = cli("launch", "--name", "one", "--rehearsal", "1")
    assert done.code == 2
    assert "swarm resume one" in done.err


def test_an_unknown_campaign_names_those_there_are(cli, full):
    done = cli("trials", "--campaign", "two")
    assert done.code == 2
    assert "'two'" in done.err
    assert "one" in done.err


def test_a_model_that_took_no_part_names_those_that_did(cli, tmp_path):
    from swarm.memory.records import Budget

    with Store.open(tmp_path / "swarm.db", create=True) as store:
        store.campaigns.create("one", {"models": ["this", "that"]}, Budget(trials=3), 0)
    done = cli("trials", "--model", "other")
    assert done.code == 2
    assert "'other'" in done.err
    assert "this, that in campaign one" in done.err
    assert cli("trials", "--model", "that").code == 0


def test_an_unforeseen_error_is_one_line_and_a_traceback_on_request(swarm, full, tmp_path):
    # A module of the standard library that fails stands in for a defect that we do not know.
    (tmp_path / "getpass.py").write_text("raise RuntimeError('boom')")
    env = {"PYTHONPATH": str(tmp_path)}
    with Store.open(full) as store:
        from swarm.memory.records import Summary

        store.summaries.add(1, Summary(title="t", text="x", evidence=(), author="me"))
    done = swarm("review", "1", "--accept", env=env)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "boom" in done.err
    assert "SWARM_DEBUG" in done.err
    assert "Traceback" in swarm("review", "1", "--accept", env={**env, "SWARM_DEBUG": "1"}).err
