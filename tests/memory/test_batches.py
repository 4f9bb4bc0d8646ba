"""Batches, threads, forks and full disks: operations are atomic one by one, and durable when the block is left."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

import pytest
from samples import complete, measurement, proposal
from sqlalchemy import event

from swarm.kernels.errors import DiskFullError
from swarm.memory.errors import DuplicateTrialError, LeaseLostError, StoreBusyError, StoreError
from swarm.memory.store import Store


def test_batch_is_visible_to_others_when_it_is_left(store, url, campaign):
    with Store.open(url, readonly=True) as other:
        with store.batch():
            for number in range(5):
                store.propose(campaign.id, number, proposal(number))
            assert len(store.trials.list()) == 5
            assert other.trials.list() == []
        assert len(other.trials.list()) == 5


def test_refused_operation_takes_back_itself_alone(store, campaign, pass_time):
    trials = [store.propose(campaign.id, number, proposal(number)) for number in range(3)]
    leases = [store.queue.claim(trial.id, "one", ttl=10) for trial in trials]
    pass_time(11)
    leases[1:] = [store.queue.claim(trial.id, "one", ttl=10) for trial in trials[1:]]
    with store.batch():
        with pytest.raises(LeaseLostError):
            complete(store, leases[0], measurement())
        complete(store, leases[1], measurement())
        with pytest.raises(DuplicateTrialError):
            store.propose(campaign.id, 3, proposal(0))
        store.propose(campaign.id, 3, proposal(3))
        with store.batch():  # a batch in a batch is the same batch
            complete(store, leases[2], measurement())
    assert [trial.state for trial in store.trials.list()] == ["running", "complete", "complete", "waiting"]
    assert len(store.events.list(kind="lease.refused")) == 1
    assert store.check() == []


def test_exception_out_of_a_batch_keeps_what_succeeded(store, campaign):
    def interrupted() -> None:
        with store.batch():
            store.propose(campaign.id, 0, proposal(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(store.trials.list()) == 1
    store.propose(campaign.id, 1, proposal(1))
    assert store.check() == []


def test_threads_share_a_store(store, campaign):
    trials = [store.propose(campaign.id, number, proposal(number)) for number in range(24)]
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while lease := store.queue.claim_next(campaign.id, threading.current_thread().name):
                with store.batch():
                    complete(store, lease, measurement())
                    store.events.add(campaign.id, "done", trial_id=lease.trial_id)
                store.trials.list(campaign.id, state="complete")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {trial.attempts for trial in store.trials.list()} == {1}
    assert len(store.events.list(kind="done")) == len(trials)
    assert store.check() == []


def test_forked_child_uses_connections_of_its_own(store, campaign):
    store.propose(campaign.id, 0, proposal(0))
    child = os.fork()
    if child == 0:
        try:
            store.propose(campaign.id, 1, proposal(1))
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    store.propose(campaign.id, 2, proposal(2))
    assert len(store.trials.list()) == 3
    assert store.check() == []


@pytest.fixture
def limit_pages(store):
    """Let SQLite believe that the disk holds `n` more pages; None lifts the limit."""
    if store.database.path is None:
        pytest.skip("a file's matter")
    pages = store.database.path.stat().st_size // 4096
    limit = [0]

    @event.listens_for(store.database.engine, "checkout")
    def set_limit(connection, record, proxy):
        connection.execute(f"PRAGMA max_page_count={limit[0] or 1073741823}")

    def at_most(more: int | None) -> None:
        limit[0] = 0 if more is None else pages + more

    return at_most


@pytest.mark.parametrize("more", [2, 8, 20, 60])
@pytest.mark.parametrize("batched", [False, True])
def test_full_disk_is_one_error_and_the_store_stays_intact(store, campaign, limit_pages, more, batched):
    done = 0

    def fill() -> None:
        nonlocal done
        step = 5 if batched else 1
        while True:
            with store.batch() if batched else nullcontext():
                for number in range(done, done + step):
                    store.propose(campaign.id, number, proposal(number))
            done += step

    limit_pages(more)
    with pytest.raises(StoreError) as caught:
        fill()
    assert isinstance(caught.value, DiskFullError)
    assert "\n" not in str(caught.value)
    limit_pages(None)
    assert store.check() == []
    stored = len(store.trials.list())
    assert done <= stored <= done + 5
    store.propose(campaign.id, stored, proposal(stored))
    assert store.check() == []


def test_long_lock_is_an_error_with_a_remedy(store, url, monkeypatch):
    from swarm.memory import sqlite

    if store.database.path is None:
        pytest.skip("a file's matter")
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT", 0.3)
    with Store.open(url) as other, other.batch():
        other.events.add(None, "first")
        with pytest.raises(StoreBusyError, match="locked"):
            store.events.add(None, "second")
    store.events.add(None, "third")
    assert [entry.kind for entry in store.events.list()] == ["first", "third"]


def test_server_restart_is_survived(postgres_server, postgres_store):
    with Store.open(postgres_store) as store:
        store.events.add(None, "before")
        postgres_server.kill()
        with pytest.raises(StoreError) as caught:
            store.events.add(None, "meanwhile")
        assert "\n" not in str(caught.value)
        postgres_server.start()
        store.events.add(None, "after")
        assert [entry.kind for entry in store.events.list()][-2:] == ["before", "after"]
