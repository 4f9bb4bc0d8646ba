"""Leases: one owner at a time, on the database's clock, fenced against late writes."""

from __future__ import annotations

import pytest
from samples import complete, fail, measurement, proposal
from sqlalchemy import text

from swarm.experiments.spec import Failure
from swarm.kernels.errors import UsageError
from swarm.memory import rows
from swarm.memory.errors import LeaseLostError
from swarm.memory.result_writer import MAX_CRASHES


def test_a_claimed_trial_is_nobody_elses(store, add):
    trial = add()
    lease = store.queue.claim(trial.id, "one")
    assert lease is not None
    assert lease.number == trial.number
    assert store.queue.claim(trial.id, "two") is None
    assert store.queue.claim_next(trial.campaign_id, "two") is None
    held = store.trials.get(trial.id)
    assert (held.state, held.owner, held.attempts) == ("running", "one", 1)


def test_result_is_stored_whole(store, add):
    trial = add()
    lease = store.queue.claim(trial.id, "one")
    result = measurement(0.25, 4.25, same_top1=0.93)
    complete(store, lease, result)
    stored = store.trials.get(trial.id)
    assert stored.state == "complete"
    assert stored.outcome == "ok"
    assert stored.spec == trial.spec
    assert stored.metrics == {metric.name: metric for metric in result.metrics}
    assert stored.arrays == result.arrays
    assert stored.environment == result.environment
    assert stored.notes == result.notes
    assert stored.seconds == pytest.approx(0.5)
    assert stored.owner == ""


def test_finished_trial_is_not_claimed_again(store, run):
    trial = run()
    assert store.queue.claim(trial.id, "one") is None


def test_heartbeat_extends_the_lease(store, add, pass_time):
    lease = store.queue.claim(add().id, "one", ttl=100)
    pass_time(80)
    lease = store.queue.heartbeat(lease)
    pass_time(80)
    complete(store, lease, measurement())


@pytest.mark.parametrize("write", ["complete", "fail", "heartbeat"])
@pytest.mark.parametrize("taken_by", ["claim", "claim_next"])
def test_late_write_is_refused_and_logged(store, add, pass_time, campaign, write, taken_by):
    trial = add()
    late = store.queue.claim(trial.id, "slow", ttl=10)
    pass_time(11)
    if taken_by == "claim":
        store.queue.claim(trial.id, "quick")
    else:
        assert store.queue.claim_next(campaign.id, "quick").trial_id == trial.id
    actions = {
        "complete": lambda: complete(store, late, measurement()),
        "fail": lambda: fail(store, late, "nan"),
        "heartbeat": lambda: store.queue.heartbeat(late),
    }
    before = store.trials.get(trial.id)
    with pytest.raises(LeaseLostError):
        actions[write]()
    assert store.trials.get(trial.id) == before
    (event,) = store.events.list(campaign.id, kind="lease.refused")
    assert event.trial_id == trial.id
    assert "slow" in event.message


def test_expired_lease_writes_nothing_even_before_it_is_taken(store, add, pass_time):
    trial = add()
    lease = store.queue.claim(trial.id, "asleep", ttl=10)
    pass_time(11)
    with pytest.raises(LeaseLostError):
        complete(store, lease, measurement())
    # Nobody took it: the same owner may claim it anew and write what it measured.
    again = store.queue.claim(trial.id, "asleep")
    complete(store, again, measurement())
    assert store.trials.get(trial.id).state == "complete"


def test_taker_completes_and_takeover_is_logged(store, add, pass_time, campaign):
    trial = add()
    store.queue.claim(trial.id, "gone", ttl=10)
    assert store.queue.claim(trial.id, "next") is None
    pass_time(11)
    lease = store.queue.claim(trial.id, "next")
    complete(store, lease, measurement())
    assert store.trials.get(trial.id).attempts == 2
    (event,) = store.events.list(campaign.id, kind="lease.taken_over")
    assert "gone" in event.message
    assert "next" in event.message


@pytest.mark.parametrize("jump", [30.0, 3600.0, 86400.0 * 365])
def test_clock_set_back_frees_the_lease_of_a_dead_owner(store, add, pass_time, jump):
    trial = add()
    lease = store.queue.claim(trial.id, "dead", ttl=10)
    pass_time(-jump)
    taken = store.queue.claim(trial.id, "next")
    assert taken is not None
    with pytest.raises(LeaseLostError):
        complete(store, lease, measurement())
    complete(store, taken, measurement())
    assert store.check() == []


def test_clock_set_back_leaves_a_live_owner_that_renews(store, add, pass_time):
    trial = add()
    lease = store.queue.claim(trial.id, "alive", ttl=10)
    pass_time(-3600)
    lease = store.queue.heartbeat(lease)
    assert store.queue.claim(trial.id, "next") is None
    complete(store, lease, measurement())


def test_release_gives_the_trial_back(store, add, campaign):
    trial = add()
    lease = store.queue.claim(trial.id, "one")
    store.queue.release(lease)
    assert store.trials.get(trial.id).state == "waiting"
    with pytest.raises(LeaseLostError):
        complete(store, lease, measurement())
    assert store.queue.claim_next(campaign.id, "two").trial_id == trial.id


def test_claim_next_goes_in_order_of_number(store, add, campaign, pass_time):
    trials = [add() for _ in range(4)]
    first = store.queue.claim_next(campaign.id, "one", ttl=10)
    assert first.trial_id == trials[0].id
    assert store.queue.claim_next(campaign.id, "one").trial_id == trials[1].id
    pass_time(11)
    assert store.queue.claim_next(campaign.id, "two").trial_id == trials[0].id
    assert store.queue.claim_next(campaign.id, "two").trial_id == trials[2].id


def test_second_crash_quarantines_with_the_cause(store, add, campaign):
    trial = add()
    for attempt in range(1, MAX_CRASHES + 1):
        lease = store.queue.claim(trial.id, "one")
        state = fail(store, lease, "crash", f"worker died, signal 9, attempt {attempt}")
        assert state == ("quarantined" if attempt == MAX_CRASHES else "waiting")
    stored = store.trials.get(trial.id)
    assert stored.outcome == "crash"
    assert "signal 9" in stored.message
    assert store.queue.claim(trial.id, "one") is None
    assert store.ledger.totals(campaign.id)["trials"].spent == 1
    assert [event.kind for event in store.events.list(trial_id=trial.id)] == ["trial.crash", "trial.quarantined"]


@pytest.mark.parametrize("outcome", ["oom", "nan", "timeout", "disk_full", "error"])
def test_other_failures_are_final_and_distinct(store, add, outcome):
    trial = add()
    lease = store.queue.claim(trial.id, "one")
    assert fail(store, lease, outcome, "because", seconds=3.0) == "failed"
    stored = store.trials.get(trial.id)
    assert (stored.state, stored.outcome, stored.message, stored.seconds) == ("failed", outcome, "because", 3.0)


def test_pruned_is_a_state_of_its_own(store, add):
    lease = store.queue.claim(add().id, "one")
    assert fail(store, lease, "pruned") == "pruned"


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), 1e9])
def test_senseless_ttl_is_refused(store, add, ttl):
    with pytest.raises(UsageError):
        store.queue.claim(add().id, "one", ttl=ttl)


def test_clock_is_the_databases(store, add):
    lease = store.queue.claim(add().id, "one", ttl=50)
    now = (
        "((julianday('now') - 2440587.5) * 86400.0)" if store.database.path else "extract(epoch from clock_timestamp())"
    )
    with store.database.read() as connection:
        assert lease.expires == pytest.approx(
            float(connection.execute(text(f"SELECT {now}")).scalar_one()) + 50, abs=20
        )


def test_results_written_together_are_refused_one_by_one(store, add, pass_time):
    trials = [add() for _ in range(5)]
    old = store.queue.claim(trials[0].id, "slow", ttl=10)
    pass_time(11)
    assert store.queue.claim(trials[0].id, "other") is not None
    leases = [store.queue.claim(trial.id, "one") for trial in trials[1:]]
    done = [
        (lease, trials[lease.number], measurement(1.0 / lease.number, 1.0 + lease.number))
        for lease in (*leases, leases[0])
    ]
    records = store.record([(old, trials[0], measurement()), *done])
    assert [record and record.id for record in records] == [None, *(trial.id for trial in trials[1:]), None]
    states = [trial.state for trial in store.trials.list()]
    assert states == ["running", "complete", "complete", "complete", "complete"]
    assert len(store.events.list(kind="lease.refused")) == 2
    assert len(store.query("SELECT * FROM pareto").rows) == 4
    totals = store.ledger.totals(trials[0].campaign_id)
    assert (totals["trials"].spent, totals["worker_seconds"].spent) == (4, 2.0)
    assert store.check() == []


def test_more_results_than_a_statement_has_parameters(store, campaign, monkeypatch):
    monkeypatch.setattr(rows, "IDS_PER_QUERY", 3)
    with store.batch():
        trials = [store.propose(campaign.id, n, proposal(n)) for n in range(10)]
        leases = [store.queue.claim(trial.id, "one") for trial in trials]
    records = store.record([(lease, trial, measurement()) for lease, trial in zip(leases, trials, strict=True)])
    assert all(record.state == "complete" for record in records)
    assert store.trials.count(campaign.id) == {"complete": 10}
    assert store.check() == []


@pytest.mark.parametrize("result", [measurement(), Failure(kind="oom", message="no\x00 memory", seconds=1.5)])
def test_what_was_recorded_is_told_as_it_is_read_back(store, add, result):
    trial = add()
    (told,) = store.record([(store.queue.claim(trial.id, "one"), trial, result)])
    stored = store.trials.get(trial.id)
    of_the_database = {name: getattr(stored, name) for name in ("attempts", "finished_at")}
    assert told.model_copy(update=of_the_database) == stored
