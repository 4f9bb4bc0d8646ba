"""Several drivers on one campaign: one proposal after another, one budget, no gaps."""

from __future__ import annotations

import pytest
from samples import complete, fail, measurement, proposal

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory.errors import BudgetError, DuplicateTrialError, LeaseLostError
from swarm.memory.records import Budget


def test_turns_alternate_without_gaps(store, campaign):
    for number, owner in enumerate(["one", "two", "two", "one"]):
        turn = store.proposal_lock.claim(campaign.id, owner)
        assert turn.number == number
        assert store.proposal_lock.claim(campaign.id, "other") is None
        store.propose(campaign.id, number, proposal(number), turn)
    assert [trial.number for trial in store.trials.list(campaign.id)] == [0, 1, 2, 3]


def test_a_dead_drivers_turn_passes_on(store, campaign, pass_time):
    late = store.proposal_lock.claim(campaign.id, "gone", ttl=10)
    assert store.proposal_lock.claim(campaign.id, "next") is None
    pass_time(11)
    turn = store.proposal_lock.claim(campaign.id, "next")
    assert turn.number == late.number
    with pytest.raises(LeaseLostError):
        store.propose(campaign.id, late.number, proposal(1), late)
    store.propose(campaign.id, turn.number, proposal(2), turn)
    with pytest.raises(LeaseLostError):
        store.propose(campaign.id, late.number + 1, proposal(3), late)
    assert store.check() == []


def test_budget_ends_the_turns(store):
    campaign = store.campaigns.create("two", {}, Budget(trials=2), seed=0)
    for number in range(2):
        store.propose(campaign.id, number, proposal(number), store.proposal_lock.claim(campaign.id, "one"))
    with pytest.raises(BudgetError):
        store.proposal_lock.claim(campaign.id, "one")


def test_lag_waits_for_results(store, campaign):
    trials = []
    for number in range(3):
        turn = store.proposal_lock.claim(campaign.id, "one", lag=3)
        trials.append(store.propose(campaign.id, number, proposal(number), turn))
    turn = store.proposal_lock.claim(campaign.id, "one", lag=3)  # number 3 needs none of 0, 1, 2
    trials.append(store.propose(campaign.id, 3, proposal(3), turn))
    assert store.proposal_lock.claim(campaign.id, "one", lag=3) is None  # number 4 needs the result of 0
    for trial in trials[1:]:
        complete(store, store.queue.claim(trial.id, "one"), measurement())
    assert store.proposal_lock.claim(campaign.id, "one", lag=3) is None
    fail(store, store.queue.claim(trials[0].id, "one"), "nan")
    assert store.proposal_lock.claim(campaign.id, "one", lag=3).number == 4


def test_duplicate_keeps_the_turn(store, campaign):
    turn = store.proposal_lock.claim(campaign.id, "one")
    store.propose(campaign.id, 0, proposal(5), turn)
    turn = store.proposal_lock.claim(campaign.id, "one")
    with pytest.raises(DuplicateTrialError, match="specification"):
        store.propose(campaign.id, 1, proposal(5), turn)
    assert store.proposal_lock.claim(campaign.id, "two") is None
    store.propose(campaign.id, 1, proposal(5, replicate=1), turn)
    assert store.ledger.totals(campaign.id)["trials"].reserved == 2


def test_duplicate_number(store, campaign):
    store.propose(campaign.id, 0, proposal(5))
    with pytest.raises(DuplicateTrialError, match="number 0"):
        store.propose(campaign.id, 0, proposal(6))


def test_gaps_are_refused(store, campaign):
    with pytest.raises(UsageError):
        store.propose(campaign.id, 1, proposal())


def test_giving_up_a_turn_frees_it(store, campaign):
    store.proposal_lock.release(store.proposal_lock.claim(campaign.id, "one"))
    assert store.proposal_lock.claim(campaign.id, "two").number == 0


def test_same_specification_in_another_campaign(store, campaign):
    other = store.campaigns.create("other", {}, Budget(trials=5), seed=0)
    first = store.propose(campaign.id, 0, proposal())
    second = store.propose(other.id, 0, proposal())
    assert first.fingerprint == second.fingerprint
    assert [trial.id for trial in store.trials.list() if trial.fingerprint == first.fingerprint] == [
        first.id,
        second.id,
    ]


def test_unknown_campaign(store):
    with pytest.raises(UnknownNameError):
        store.proposal_lock.claim(99, "one")
    with pytest.raises(UnknownNameError):
        store.propose(99, 0, proposal())
