"""The campaign loop on real workers with trials that do nothing, or fail as told."""

import threading
import time

import pytest

from swarm.memory.errors import StoreError
from swarm.memory.store import Store
from swarm.orchestrator.rehearsal import Rehearsal


def results(store, campaign):
    """What identifies trials and their results, ids and times aside."""
    return [
        (r.number, r.spec, r.state, r.outcome, {name: m.value for name, m in r.metrics.items()})
        for r in store.trials.list(campaign.id)
    ]


@pytest.mark.parametrize("trials", [1, 7, 40])
def test_the_budget_is_used_exactly(store, campaign, drive, trials):
    made = campaign(trials)
    assert drive(store, made, Rehearsal.parse("1", seed=3)).state == "complete"
    assert [r.number for r in store.trials.list(made.id)] == list(range(trials))
    assert store.trials.count(made.id) == {"complete": trials}
    account = store.ledger.totals(made.id)["trials"]
    assert (account.spent, account.reserved) == (trials, 0)
    assert store.campaigns.get(made.id).state == "complete"
    assert len(store.summaries.list(made.id)) == 1
    assert store.check() == []


def test_failures_are_recorded_by_their_kind_and_count(store, campaign, drive):
    made = campaign(24)
    faults = "1,crash@1,nan@3,oom@4,disk_full@6,error@9,bug@12,hang@15"
    driven = drive(store, made, Rehearsal.parse(faults, seed=0))
    ended = {r.number: (r.state, r.outcome) for r in store.trials.list(made.id)}
    assert {number: outcome for number, (_, outcome) in ended.items() if outcome != "ok"} == {
        1: "crash", 3: "nan", 4: "oom", 6: "disk_full", 9: "error", 12: "error", 15: "timeout",
    }  # fmt: skip
    (killer,) = store.trials.list(made.id, state="quarantined")
    assert (killer.number, killer.attempts) == (1, 2)
    assert all(r.message for r in store.trials.list(made.id) if r.outcome != "ok")
    assert store.ledger.totals(made.id)["trials"].spent == 24
    assert driven.progress.failed == 7
    assert any("crash" in str(event) for event in driven.events)
    assert store.check() == []


def test_the_same_seed_gives_the_same_campaign_whichever_worker_is_first(tmp_path, drive):
    from swarm.memory.records import Budget

    found = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        with Store.open(tmp_path / f"{name}.db", create=True) as store:
            made = store.campaigns.create(None, {}, Budget(trials=25), seed)
            drive(store, made, Rehearsal.parse("3,nan@4", seed))
            found.append(results(store, made))
    assert found[0] == found[1]
    assert found[0] != found[2]


class Recorder:
    """A rehearsal that notes what each proposal could know."""

    def __init__(self, inner, slow=0):
        self.inner = inner
        self.seen = {}

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def propose(self, number, history):
        self.seen[number] = [r.number for r in history.records if r.state in ("complete", "failed")]
        return self.inner.propose(number, history)


@pytest.mark.parametrize("lag", [1, 5])
def test_a_proposal_sees_exactly_the_results_up_to_the_lag(store, campaign, drive, lag):
    agents = Recorder(Rehearsal.parse("2,nan@3", seed=0))
    drive(store, campaign(20), agents, lag=lag)
    assert agents.seen == {number: list(range(max(0, number - lag))) for number in range(20)}


def test_a_stopped_campaign_is_resumed_to_its_budget_without_a_repetition(store, campaign, drive):
    made = campaign(30)
    agents = Rehearsal.parse("30,error@2", seed=1)
    assert drive(store, made, agents, stop_at=12).state == "interrupted"
    counts = store.trials.count(made.id)
    assert counts.get("running", 0) == 0
    assert 0 < sum(counts.values()) < 30
    before = [found for found in results(store, made) if found[2] in ("complete", "failed")]
    store.campaigns.finish(made.id, "running")
    assert drive(store, made, agents).state == "complete"
    after = results(store, made)
    assert len(after) == 30
    assert all(found in after for found in before)
    assert all(r.attempts == 1 for r in store.trials.list(made.id) if r.outcome == "ok" and r.number < len(before) - 4)
    assert store.ledger.totals(made.id)["trials"].spent == 30
    assert store.check() == []


def test_time_is_a_budget(store, campaign, drive):
    made = campaign(10_000, seconds=1.5)
    assert drive(store, made, Rehearsal.parse("5", seed=0)).state == "interrupted"
    account = store.ledger.totals(made.id)["seconds"]
    assert account.spent <= 1.5
    assert account.reserved == 0
    assert 0 < store.trials.count(made.id)["complete"] < 10_000
    assert len(store.summaries.list(made.id)) == 1
    assert store.check() == []


def test_a_lease_that_a_dead_driver_left_is_taken_over(store, campaign, drive):
    made = campaign(12)
    agents = Rehearsal.parse("1", seed=0)
    for number in range(3):
        record = store.propose(made.id, number, agents.propose(number, None))
        assert store.queue.claim(record.id, "dead", ttl=1.0)
    assert drive(store, made, agents).state == "complete"
    assert store.trials.count(made.id) == {"complete": 12}
    assert len(store.events.list(made.id, kind="lease.")) >= 3
    assert store.check() == []


def test_a_trial_of_another_driver_is_waited_for_and_not_repeated(store, campaign, drive):
    made = campaign(10)
    agents = Rehearsal.parse("1", seed=0)
    record = store.propose(made.id, 0, agents.propose(0, None))
    lease = store.queue.claim(record.id, "other", ttl=60.0)

    def finish():
        from samples import complete, measurement

        time.sleep(0.7)
        complete(store, lease, measurement(kld=0.5))

    other = threading.Thread(target=finish)
    other.start()
    assert drive(store, made, agents, lag=2).state == "complete"
    other.join()
    assert store.trials.get(record.id).metrics["kld"].value == 0.5
    assert store.trials.get(record.id).attempts == 1
    assert store.check() == []


def test_leases_are_kept_for_trials_that_take_longer_than_they_last(store, campaign, drive):
    made = campaign(4)
    drive(store, made, Rehearsal.parse("900", seed=0), ttl=0.4)
    assert store.trials.count(made.id) == {"complete": 4}
    assert all(r.attempts == 1 for r in store.trials.list(made.id))


def test_a_store_that_fails_ends_the_campaign_and_frees_its_trials(store, campaign, drive, monkeypatch):
    made = campaign(20)
    record, written = store.record, []

    def failing(results):
        if len(written) >= 4 and results:
            raise StoreError("no space is left.", "Free some.")
        written.extend(results)
        return record(results)

    monkeypatch.setattr(store, "record", failing)
    with pytest.raises(StoreError, match="no space"):
        drive(store, made, Rehearsal.parse("1", seed=0))
    monkeypatch.undo()
    counts = store.trials.count(made.id)
    assert counts["complete"] >= 4
    assert counts.get("running", 0) <= 2  # those whose results could not be written
    assert store.check() == []
