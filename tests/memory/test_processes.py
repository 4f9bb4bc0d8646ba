"""Several processes on one store, and processes that are killed: nothing is done twice, nothing is lost."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
from samples import proposal
from sqlalchemy import text
from store_workers import claim_all, drive, write_batches

from swarm.memory.records import Budget
from swarm.memory.store import Store

# Forked, as starting an interpreter per process costs more than what is tested; each opens the store anew.
CONTEXT = multiprocessing.get_context("fork")


def fill(store: Store, count: int) -> tuple[int, list[int]]:
    campaign = store.campaigns.create("many", {}, Budget(trials=count), seed=0)
    with store.batch():
        return campaign.id, [store.propose(campaign.id, n, proposal(n)).id for n in range(count)]


def all_claims(store: Store, url: str, trials: int, processes: int) -> None:
    campaign_id, ids = fill(store, trials)
    start, claimed = CONTEXT.Event(), CONTEXT.Queue()
    workers = [CONTEXT.Process(target=claim_all, args=(url, ids, seed, start, claimed)) for seed in range(processes)]
    for worker in workers:
        worker.start()
    start.set()
    got = [claimed.get(timeout=3000) for _ in workers]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    assert sorted(trial for part in got for trial in part) == sorted(ids)
    assert store.trials.count(campaign_id) == {"running": trials}
    assert {trial.attempts for trial in store.trials.list(campaign_id, arrays=False)} == {1}
    assert store.check() == []


def test_every_trial_is_claimed_once(store, url):
    all_claims(store, url, trials=200, processes=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_trial_is_claimed_once_long(store, url):
    all_claims(store, url, trials=10_000, processes=16)


def shared_campaign(store: Store, url: str, name: str, drivers: int, trials: int, lag: int) -> list[str]:
    campaign = store.campaigns.create(name, {}, Budget(trials=trials), seed=0)
    start = CONTEXT.Event()
    workers = [
        CONTEXT.Process(target=drive, args=(url, campaign.id, f"{name}/{n}", lag, start)) for n in range(drivers)
    ]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(250)
    assert [worker.exitcode for worker in workers] == [0] * drivers
    records = store.trials.list(campaign.id, arrays=False)
    assert [record.number for record in records] == list(range(trials))
    assert {record.state for record in records} == {"complete"}
    assert {record.attempts for record in records} == {1}
    assert store.ledger.totals(campaign.id)["trials"].spent == trials
    return [record.fingerprint for record in records]


def test_drivers_share_one_budget_and_propose_what_one_would(store, url):
    alone = shared_campaign(store, url, "alone", drivers=1, trials=30, lag=4)
    together = shared_campaign(store, url, "together", drivers=3, trials=30, lag=4)
    assert alone == together
    assert store.check() == []


def killed_writers(store: Store, url: str, journal: Path, kills: int, trials: int, seed: int) -> None:
    campaign_id, _ = fill(store, trials)
    rng = random.Random(seed)
    journal.touch()
    for kill in range(1, kills + 1):
        start = CONTEXT.Event()
        writer = CONTEXT.Process(target=write_batches, args=(url, campaign_id, str(journal), start))
        writer.start()
        start.wait(60)
        time.sleep(rng.uniform(0, 0.15))
        writer.kill()
        writer.join()
        assert writer.exitcode in (0, -signal.SIGKILL)
        confirmed = {int(line) for line in journal.read_text().split()}
        complete = {trial.id: trial for trial in store.trials.list(campaign_id, state="complete")}
        assert confirmed <= set(complete)  # a batch may also be stored and not yet noted
        assert len(complete) - len(confirmed) <= 5 * kill
        for trial in complete.values():
            assert trial.metrics["kld"].value == trial.number + 1.0
            assert len(trial.arrays) == 2
        assert store.check() == []
        with store.database.write() as connection:  # the dead writer's leases run out
            connection.execute(text("UPDATE trials SET lease_expires = lease_at WHERE state = 'running'"))
    last = CONTEXT.Process(target=write_batches, args=(url, campaign_id, str(journal), CONTEXT.Event()))
    last.start()
    last.join(250)
    assert store.trials.count(campaign_id) == {"complete": trials}
    assert store.ledger.totals(campaign_id)["trials"].spent == trials
    assert store.check() == []


def test_killed_writers_lose_nothing(store, url, tmp_path):
    killed_writers(store, url, tmp_path / "journal", kills=4, trials=120, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_killed_writers_lose_nothing_long(store, url, tmp_path, seed):
    killed_writers(store, url, tmp_path / "journal", kills=50, trials=3000, seed=seed)
