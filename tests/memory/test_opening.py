"""What a store path can be, and that nothing is touched that is not ours."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
from pathlib import Path

import alembic.command
import pytest
from samples import proposal
from sqlalchemy import text
from store_workers import as_nobody, open_and_add

from swarm.kernels.errors import UsageError
from swarm.memory import schema, sqlite
from swarm.memory.errors import ForeignStoreError, NewerStoreError, StoreError
from swarm.memory.records import Budget
from swarm.memory.store import Store


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("readonly", [False, True])
def test_missing_store_is_not_made_by_accident(tmp_path, readonly):
    with pytest.raises(StoreError, match="no store"):
        Store.open(tmp_path / "swarm.db", readonly=readonly)
    assert list(tmp_path.iterdir()) == []


def test_create_then_open(tmp_path):
    path = tmp_path / "swarm.db"
    with Store.open(path, create=True) as store:
        store.campaigns.create("one", {"a": [1, None]}, Budget(trials=3), seed=1)
    with Store.open(path, create=True) as store:
        assert store.campaigns.get("one").settings == {"a": [1, None]}
    with Store.open(f"sqlite:///{path}", readonly=True) as store:
        assert store.campaigns.get().name == "one"
        with pytest.raises(StoreError, match="reading only"):
            store.events.add(None, "x")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"swarm.db", "swarm.db-wal", "swarm.db-shm"}


FOREIGN = {
    "text": lambda path: path.write_text("dear diary, " * 500),
    "short": lambda path: path.write_bytes(b"SQLite format 3\x00"),
    "garbage": lambda path: path.write_bytes(os.urandom(8192)),
    "other program": lambda path: other_program(path, 0),
    "other application": lambda path: other_program(path, 0x12345678),
    "our mark, other tables": lambda path: other_program(path, sqlite.APPLICATION_ID),
}


def other_program(path: Path, application_id: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes(name)")
        connection.execute("INSERT INTO recipes VALUES ('soup')")
        connection.execute(f"PRAGMA application_id={application_id}")
    connection.close()


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("options", [{}, {"create": True}, {"readonly": True}], ids=str)
def test_foreign_files_are_refused_untouched(tmp_path, kind, options):
    path = tmp_path / "swarm.db"
    FOREIGN[kind](path)
    before = digest(tmp_path)
    with pytest.raises(ForeignStoreError) as caught:
        Store.open(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert digest(tmp_path) == before


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_store_is_refused(tmp_path, share):
    path = tmp_path / "swarm.db"
    Store.open(path, create=True).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    before = digest(tmp_path)
    with pytest.raises(ForeignStoreError):
        Store.open(path)
    assert digest(tmp_path) == before


@pytest.mark.parametrize("seed", range(4))
def test_scrambled_pages_are_an_error_in_one_line(tmp_path, seed):
    import random

    path = tmp_path / "swarm.db"
    with Store.open(path, create=True) as store:
        campaign = store.campaigns.create("one", {}, Budget(trials=100), seed=1)
        for number in range(40):
            store.propose(campaign.id, number, proposal(number))
    content = bytearray(path.read_bytes())
    rng = random.Random(seed)
    for page in rng.sample(range(1, len(content) // 4096), 30):
        content[page * 4096 : (page + 1) * 4096] = rng.randbytes(4096)
    path.write_bytes(content)
    # Damage is found by the check, or meets whoever reads the page: as one line, not as a traceback.
    found = []
    try:
        with Store.open(path) as store:
            found = store.check()
            store.trials.list()
    except StoreError as error:
        found.append(str(error))
    assert found
    assert all("\n" not in line for line in found)


def test_newer_store_is_refused_untouched(store, url):
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    store.close()
    for options in ({}, {"create": True}, {"readonly": True}):
        with pytest.raises(NewerStoreError, match="9999"):
            Store.open(url, **options)


def test_older_store_is_brought_forward(store, url, monkeypatch):
    # A later release's view of today's store: there is one more revision than the store has.
    store.campaigns.create("kept", {}, Budget(trials=1), seed=1)
    today = schema.revisions()
    monkeypatch.setattr(schema, "revisions", lambda: (*today, "9998"))
    upgraded = []
    monkeypatch.setattr(alembic.command, "upgrade", lambda _, revision: upgraded.append(revision))
    with pytest.raises(StoreError, match="older schema"):
        Store.open(url, readonly=True)
    with Store.open(url) as again:
        assert again.campaigns.get().name == "kept"
        assert again.query("SELECT count(*) FROM trial_metrics").rows == [(0,)]
    assert upgraded == ["head"]


def test_postgresql_database_of_another_program(postgres_url):
    import psycopg

    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE TABLE recipes(name text)")
    for options in ({}, {"create": True}, {"readonly": True}):
        with pytest.raises(ForeignStoreError):
            Store.open(postgres_url, **options)


def test_empty_postgresql_database_needs_create(postgres_url):
    for options in ({}, {"readonly": True}):
        with pytest.raises(StoreError, match="empty"):
            Store.open(postgres_url, **options)


def test_unreachable_server_says_so_without_the_password():
    with pytest.raises(StoreError) as caught:
        Store.open("postgresql+psycopg://me:topsecret@127.0.0.1:1/none")
    assert "topsecret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "what://"])
def test_other_urls_are_a_usage_error(place):
    with pytest.raises(UsageError):
        Store.open(place, create=True)


def test_folder_and_missing_folder(tmp_path):
    with pytest.raises(StoreError, match="folder"):
        Store.open(tmp_path, create=True)
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "no" / "swarm.db", create=True)


def test_symbolic_links_lead_to_one_store(tmp_path):
    real, linked = tmp_path / "real", tmp_path / "linked"
    real.mkdir()
    linked.symlink_to(real)
    (tmp_path / "alias.db").symlink_to(linked / "swarm.db")
    with Store.open(tmp_path / "alias.db", create=True) as one, Store.open(linked / "swarm.db") as two:
        assert one.place == two.place == str(real / "swarm.db")
        campaign = one.campaigns.create("x", {}, Budget(trials=1), seed=0)
        assert two.campaigns.get() == campaign
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError):
        Store.open(tmp_path / "loop", create=True)


def test_names_that_look_like_uri_options(tmp_path):
    odd = tmp_path / "a?mode=memory&x=#1 %41.db"
    with Store.open(odd, create=True) as store:
        store.campaigns.create("x", {}, Budget(trials=1), seed=0)
    assert odd.exists()
    with Store.open(odd, readonly=True) as store:
        assert store.query("SELECT name FROM campaigns").rows == [("x",)]


def attempt(path: Path, **options: bool) -> str:
    try:
        with Store.open(path, **options) as store:
            if options.get("readonly"):
                return f"{store.campaigns.get().name} {store.query('SELECT count(*) FROM trials').rows}"
            return str(store.events.add(None, "x"))
    except StoreError as error:
        return f"StoreError: {error}"


@pytest.fixture
def locked_folder(tmp_path_factory):
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    with Store.open(folder / "swarm.db", create=True) as store:
        store.campaigns.create("kept", {}, Budget(trials=1), seed=1)
    (folder / "swarm.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_no_write_permission(locked_folder):
    before = digest(locked_folder)
    path = locked_folder / "swarm.db"
    assert as_nobody(lambda: attempt(path, readonly=True)) == "kept [(0,)]"
    for name, options in (("swarm.db", {}), ("swarm.db", {"create": True}), ("new.db", {"create": True})):
        answer = as_nobody(lambda name=name, options=options: attempt(locked_folder / name, **options))
        assert answer.startswith("StoreError: the store")
        assert len(answer.splitlines()) == 1
    path.chmod(0o000)
    assert as_nobody(lambda: attempt(path, readonly=True)).startswith("StoreError: the store")
    path.chmod(0o444)
    assert digest(locked_folder) == before


@pytest.mark.parametrize("log", [b"", None])
def test_read_only_media_with_what_is_left_of_a_log(locked_folder, log):
    """An empty log is nothing; one with content needs its shared memory, which cannot be made there."""
    path = locked_folder / "swarm.db"
    left = locked_folder / "swarm.db-wal"
    locked_folder.chmod(0o755)
    if log is None:
        with Store.open(path) as writer:
            path.chmod(0o644)
            writer.events.add(None, "x")
            log = left.read_bytes()
    left.write_bytes(log)
    left.chmod(0o444)
    (locked_folder / "swarm.db-shm").unlink(missing_ok=True)
    locked_folder.chmod(0o555)
    answer = as_nobody(lambda: attempt(path, readonly=True))
    if log:
        assert "was not closed" in answer
        assert "Copy the database and its -wal file" in answer
    else:
        assert answer == "kept [(0,)]"


def test_many_processes_create_one_store(tmp_path, postgres_url):
    context = multiprocessing.get_context("fork")
    for place in (str(tmp_path / "swarm.db"), postgres_url):
        start, results = context.Event(), context.Queue()
        processes = [context.Process(target=open_and_add, args=(place, start, results)) for _ in range(4)]
        for process in processes:
            process.start()
        start.set()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        with Store.open(place) as store:
            assert len(store.events.list()) == 4
            assert store.check() == []
