"""The ledger: reserved before, settled with the result, never over, nothing counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import complete, fail, measurement, proposal

from swarm.kernels.errors import UsageError
from swarm.memory.errors import BudgetError, StoreError
from swarm.memory.records import AgentCall, Budget
from swarm.memory.types import MICRO, to_micro


@pytest.fixture
def tight(store):
    return store.campaigns.create("tight", {}, Budget(trials=3, seconds=100, tokens=1000, usd=0.3), seed=0)


def test_trials_are_reserved_when_proposed_and_spent_when_done(store, tight):
    for number in range(3):
        store.propose(tight.id, number, proposal(number))
    assert store.ledger.totals(tight.id)["trials"].reserved == 3
    with pytest.raises(BudgetError, match="3 reserved of 3"):
        store.propose(tight.id, 3, proposal(3))
    lease = store.queue.claim_next(tight.id, "one")
    complete(store, lease, measurement(seconds=2.5))
    totals = store.ledger.totals(tight.id)
    assert (totals["trials"].reserved, totals["trials"].spent) == (2, 1)
    assert totals["worker_seconds"].spent == 2.5
    assert store.check() == []


def test_reserve_settle_release(store, tight):
    first = store.ledger.reserve(tight.id, "tokens", 600, "scribe")
    with pytest.raises(BudgetError, match="tokens"):
        store.ledger.reserve(tight.id, "tokens", 401, "scout")
    second = store.ledger.reserve(tight.id, "tokens", 400, "scout")
    store.ledger.settle(first, 250)
    store.ledger.release(second)
    total = store.ledger.totals(tight.id)["tokens"]
    assert (total.cap, total.reserved, total.spent) == (1000, 0, 250)
    roles = {account.role: account.spent for account in store.ledger.accounts(tight.id) if account.kind == "tokens"}
    assert roles == {"": 250, "scribe": 250, "scout": 0}


@pytest.mark.parametrize("again", ["settle", "release"])
def test_a_reservation_is_closed_once(store, tight, again):
    reservation = store.ledger.reserve(tight.id, "usd", 0.1)
    store.ledger.settle(reservation, 0.05)
    with pytest.raises(StoreError, match="before"):
        store.ledger.settle(reservation, 0.05) if again == "settle" else store.ledger.release(reservation)
    assert store.ledger.totals(tight.id)["usd"].spent == 0.05


def test_cents_add_up_exactly(store, tight):
    for _ in range(3):  # 0.1 + 0.1 + 0.1 > 0.3 in binary floating point
        store.ledger.settle(store.ledger.reserve(tight.id, "usd", 0.1), 0.1)
    assert store.ledger.totals(tight.id)["usd"].spent == 0.3
    with pytest.raises(BudgetError):
        store.ledger.reserve(tight.id, "usd", 0.000001)


def test_overrun_is_recorded_as_it_is_and_stops_everything(store, tight):
    store.ledger.settle(store.ledger.reserve(tight.id, "usd", 0.2, "scribe"), 0.5)
    assert store.ledger.totals(tight.id)["usd"].spent == 0.5
    assert [event.kind for event in store.events.list(tight.id)] == ["ledger.overrun"]
    with pytest.raises(BudgetError):
        store.ledger.reserve(tight.id, "usd", 0.01, "scribe")


def test_role_caps(store, tight):
    store.ledger.limit(tight.id, "tokens", "scout", 100)
    store.ledger.reserve(tight.id, "usd", 0.01, "scout")
    with pytest.raises(BudgetError, match="role 'scout'"):
        store.ledger.reserve(tight.id, "tokens", 101, "scout")
    store.ledger.reserve(tight.id, "tokens", 100, "scout")
    store.ledger.reserve(tight.id, "tokens", 900, "scribe")
    with pytest.raises(BudgetError, match="the campaign"):
        store.ledger.reserve(tight.id, "tokens", 1, "scribe")


def test_crashed_attempt_pays_its_time_and_keeps_its_trial(store, tight):
    trial = store.propose(tight.id, 0, proposal())
    fail(store, store.queue.claim(trial.id, "one"), "crash", seconds=5)
    totals = store.ledger.totals(tight.id)
    assert totals["worker_seconds"].spent == 5
    assert (totals["trials"].reserved, totals["trials"].spent) == (1, 0)
    complete(store, store.queue.claim(trial.id, "one"), measurement(seconds=7))
    totals = store.ledger.totals(tight.id)
    assert (totals["worker_seconds"].spent, totals["trials"].spent) == (12, 1)
    assert store.trials.get(trial.id).seconds == 12


def test_reservation_that_nobody_settles_counts_as_spent(store, tight, pass_time):
    store.ledger.reserve(tight.id, "tokens", 300, "scout", ttl=60)
    assert store.ledger.forfeit_expired(tight.id) == 0
    pass_time(61)
    assert store.ledger.forfeit_expired(tight.id) == 1
    assert store.ledger.totals(tight.id)["tokens"].spent == 300
    assert store.check() == []


def test_call_and_its_cost_are_one_transaction(store, tight):
    reserved = store.ledger.reserve(tight.id, "usd", 0.1, "scribe")
    call = AgentCall(role="scribe", prompt_hash="ab", model="m", tokens_in=10, tokens_out=5, usd=0.07, outcome="ok")
    store.agent_calls.add(tight.id, call, settle={reserved: 0.07})
    assert store.ledger.totals(tight.id)["usd"].spent == 0.07
    assert store.agent_calls.list(tight.id) == [call]
    with pytest.raises(StoreError):
        store.agent_calls.add(tight.id, call, settle={reserved: 0.07})
    assert len(store.agent_calls.list(tight.id)) == 1


@pytest.mark.parametrize(("kind", "amount"), [("pounds", 1), ("usd", -1), ("usd", float("nan")), ("usd", float("inf"))])
def test_senseless_reservation_is_refused(store, tight, kind, amount):
    with pytest.raises(UsageError):
        store.ledger.reserve(tight.id, kind, amount)


def test_unknown_campaign(store):
    with pytest.raises(StoreError):
        store.ledger.reserve(99, "usd", 1)


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_amounts_are_whole_millionths(parts):
    assert sum(to_micro(part / MICRO) for part in parts) == sum(parts)
