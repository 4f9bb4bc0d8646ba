"""Several drivers on one campaign: one proposal after another, one budget, no gaps."""

from __future__ import annotations

import pytest
from samples import measurement, proposal

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory.errors import BudgetError, DuplicateTrialError, LeaseLostError
from swarm.memory.records import Budget


def test_turns_alternate_without_gaps(store, campaign):
    for number, owner in enumerate(["one", "two", "two", "one"]):
        turn = store.trials.allocate(campaign.id, owner)
        assert turn.number == number
        assert store.trials.allocate(campaign.id, "other") is None
        store.trials.add(campaign.id, number, proposal(number), turn)
    assert [trial.number for trial in store.trials.list(campaign.id)] == [0, 1, 2, 3]


def test_a_dead_drivers_turn_passes_on(store, campaign, pass_time):
    late = store.trials.allocate(campaign.id, "gone", ttl=10)
    assert store.trials.allocate(campaign.id, "next") is None
    pass_time(11)
    turn = store.trials.allocate(campaign.id, "next")
    assert turn.number == late.number
    with pytest.raises(LeaseLostError):
        store.trials.add(campaign.id, late.number, proposal(1), late)
    store.trials.add(campaign.id, turn.number, proposal(2), turn)
    with pytest.raises(LeaseLostError):
        store.trials.add(campaign.id, late.number + 1, proposal(3), late)
    assert store.check() == []


def test_budget_ends_the_turns(store):
    campaign = store.campaigns.create("two", {}, Budget(trials=2), seed=0)
    for number in range(2):
        store.trials.add(campaign.id, number, proposal(number), store.trials.allocate(campaign.id, "one"))
    with pytest.raises(BudgetError):
        store.trials.allocate(campaign.id, "one")


def test_lag_waits_for_results(store, campaign):
    trials = []
    for number in range(3):
        turn = store.trials.allocate(campaign.id, "one", lag=3)
        trials.append(store.trials.add(campaign.id, number, proposal(number), turn))
    turn = store.trials.allocate(campaign.id, "one", lag=3)  # number 3 needs none of 0, 1, 2
    trials.append(store.trials.add(campaign.id, 3, proposal(3), turn))
    assert store.trials.allocate(campaign.id, "one", lag=3) is None  # number 4 needs the result of 0
    for trial in trials[1:]:
        store.trials.complete(store.trials.claim(trial.id, "one"), measurement())
    assert store.trials.allocate(campaign.id, "one", lag=3) is None
    store.trials.fail(store.trials.claim(trials[0].id, "one"), "nan")
    assert store.trials.allocate(campaign.id, "one", lag=3).number == 4


def test_duplicate_keeps_the_turn(store, campaign):
    turn = store.trials.allocate(campaign.id, "one")
    store.trials.add(campaign.id, 0, proposal(5), turn)
    turn = store.trials.allocate(campaign.id, "one")
    with pytest.raises(DuplicateTrialError, match="specification"):
        store.trials.add(campaign.id, 1, proposal(5), turn)
    assert store.trials.allocate(campaign.id, "two") is None
    store.trials.add(campaign.id, 1, proposal(5, replicate=1), turn)
    assert store.ledger.totals(campaign.id)["trials"].reserved == 2


def test_duplicate_number(store, campaign):
    store.trials.add(campaign.id, 0, proposal(5))
    with pytest.raises(DuplicateTrialError, match="number 0"):
        store.trials.add(campaign.id, 0, proposal(6))


def test_gaps_are_refused(store, campaign):
    with pytest.raises(UsageError):
        store.trials.add(campaign.id, 1, proposal())


def test_giving_up_a_turn_frees_it(store, campaign):
    store.trials.give_up_turn(store.trials.allocate(campaign.id, "one"))
    assert store.trials.allocate(campaign.id, "two").number == 0


def test_same_specification_in_another_campaign(store, campaign):
    other = store.campaigns.create("other", {}, Budget(trials=5), seed=0)
    first = store.trials.add(campaign.id, 0, proposal())
    second = store.trials.add(other.id, 0, proposal())
    assert first.fingerprint == second.fingerprint
    assert [trial.id for trial in store.trials.list(fingerprint=first.fingerprint)] == [first.id, second.id]


def test_unknown_campaign(store):
    with pytest.raises(UnknownNameError):
        store.trials.allocate(99, "one")
    with pytest.raises(UnknownNameError):
        store.trials.add(99, 0, proposal())
