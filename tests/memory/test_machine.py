"""Any order of claims, results, failures, expiries and late writes keeps the rules, on both databases."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from samples import complete, fail, measurement, proposal
from sqlalchemy import text

from swarm.memory.errors import BudgetError, DuplicateTrialError, LeaseLostError
from swarm.memory.records import Budget, TrialState

TTL = 100.0
CAPS = {"trials": 12, "tokens": 500}
owners = st.sampled_from(["one", "two", "three"])


class Life(RuleBasedStateMachine):
    """What the store should do, kept in a few dictionaries beside it."""

    store = None  # set by the test
    names = count()

    leases = Bundle("leases")
    reservations = Bundle("reservations")

    @initialize()
    def begin(self) -> None:
        budget = Budget(trials=CAPS["trials"], tokens=CAPS["tokens"], seconds=10_000)
        self.campaign = self.store.campaigns.create(f"machine {next(Life.names)}", {}, budget, seed=0).id
        self.states: dict[int, TrialState] = {}
        self.crashes: dict[int, int] = {}
        self.live: dict[int, object] = {}  # the lease that may write, by trial
        self.expired: set[int] = set()  # trials whose lease ran out and was not taken
        self.tokens = {"reserved": 0, "spent": 0}
        self.results = 0
        self.refused = 0

    @rule(seed=st.integers(0, 15))
    def propose(self, seed: int) -> None:
        number = len(self.states)
        seeds = {trial.spec.seed for trial in self.store.trials.list(self.campaign)}
        try:
            trial = self.store.propose(self.campaign, number, proposal(seed))
        except DuplicateTrialError:
            assert seed in seeds
        except BudgetError:
            assert number == CAPS["trials"]
        else:
            assert seed not in seeds
            assert number < CAPS["trials"]
            self.states[trial.id] = "waiting"
            self.crashes[trial.id] = 0

    @rule(target=leases, owner=owners, pick=st.integers(0, 3))
    def claim(self, owner: str, pick: int):
        if not self.states:
            return multiple()
        trial = sorted(self.states)[pick % len(self.states)]
        lease = self.store.queue.claim(trial, owner, TTL)
        return self._taken(trial, lease)

    @rule(target=leases, owner=owners)
    def claim_next(self, owner: str):
        lease = self.store.queue.claim_next(self.campaign, owner, TTL)
        if lease is None:
            assert not any(self._free(trial) for trial in self.states)
            return multiple()
        return self._taken(lease.trial_id, lease)

    @rule(target=leases, lease=leases, owner=owners)
    def sleep_and_lose_the_trial(self, lease, owner: str):
        """The way to a late write: one driver sleeps, another one takes over what has expired."""
        self.let_all_leases_expire()
        return self._taken(lease.trial_id, self.store.queue.claim(lease.trial_id, owner, TTL))

    @rule(lease=leases)
    def heartbeat(self, lease) -> None:
        self._write(lease, lambda: self.store.queue.heartbeat(lease))

    @rule(lease=leases, kld=st.floats(0, 5), bits=st.floats(1, 16))
    def complete(self, lease, kld: float, bits: float) -> None:
        if self._write(lease, lambda: complete(self.store, lease, measurement(kld, bits))):
            self._finish(lease.trial_id, "complete")
            self.results += 1

    @rule(lease=leases, outcome=st.sampled_from(["crash", "nan", "oom", "timeout", "pruned"]))
    def fail(self, lease, outcome: str) -> None:
        trial = lease.trial_id
        if self._write(lease, lambda: fail(self.store, lease, outcome, seconds=1.5)):
            self.crashes[trial] += outcome == "crash"
            again = outcome == "crash" and self.crashes[trial] < 2
            state = "waiting" if again else {"crash": "quarantined", "pruned": "pruned"}.get(outcome, "failed")
            self._finish(trial, state)

    @rule(lease=leases)
    def release(self, lease) -> None:
        self.store.queue.release(lease)
        if self._owns(lease):
            self._finish(lease.trial_id, "waiting")

    @rule()
    def let_all_leases_expire(self) -> None:
        with self.store.database.write() as connection:
            shift = "lease_at = lease_at - :s, lease_expires = lease_expires - :s"
            connection.execute(
                text(f"UPDATE trials SET {shift} WHERE campaign_id = :c"), {"s": TTL + 1, "c": self.campaign}
            )
        self.expired |= set(self.live)

    @rule(target=reservations, amount=st.integers(0, 300))
    def reserve(self, amount: int):
        fits = self.tokens["reserved"] + self.tokens["spent"] + amount <= CAPS["tokens"]
        try:
            reservation = self.store.ledger.reserve(self.campaign, "tokens", amount, "scribe")
        except BudgetError:
            assert not fits
            return multiple()
        assert fits
        self.tokens["reserved"] += amount
        return reservation

    @rule(reservation=consumes(reservations), share=st.sampled_from([0, 0.5, 1]))
    def settle(self, reservation, share: float) -> None:
        self.store.ledger.settle(reservation, reservation.amount * share)
        self.tokens["reserved"] -= reservation.amount
        self.tokens["spent"] += reservation.amount * share

    @invariant()
    def rules_hold(self) -> None:
        stored = {trial.id: trial for trial in self.store.trials.list(self.campaign, arrays=False)}
        assert {trial: record.state for trial, record in stored.items()} == self.states
        assert [record.number for record in stored.values()] == list(range(len(stored)))
        assert sum(bool(record.metrics) for record in stored.values()) == self.results
        totals = self.store.ledger.totals(self.campaign)
        over = sum(state not in ("waiting", "running") for state in self.states.values())
        assert (totals["trials"].spent, totals["trials"].reserved) == (over, len(stored) - over)
        assert (totals["tokens"].spent, totals["tokens"].reserved) == (self.tokens["spent"], self.tokens["reserved"])
        assert len(self.store.events.list(self.campaign, kind="lease.refused")) == self.refused

    def teardown(self) -> None:
        assert self.store.check() == []

    def _free(self, trial: int) -> bool:
        return self.states[trial] == "waiting" or trial in self.expired

    def _owns(self, lease) -> bool:
        current = self.live.get(lease.trial_id)
        return current is not None and current.token == lease.token and lease.trial_id not in self.expired

    def _taken(self, trial: int, lease):
        assert (lease is not None) == self._free(trial)
        if lease is None:
            return multiple()
        self.states[trial] = "running"
        self.live[trial] = lease
        self.expired.discard(trial)
        return lease

    def _write(self, lease, action) -> bool:
        allowed = self._owns(lease)
        try:
            action()
        except LeaseLostError:
            assert not allowed
            self.refused += 1
            return False
        assert allowed
        return True

    def _finish(self, trial: int, state: TrialState) -> None:
        self.states[trial] = state
        self.live.pop(trial, None)
        self.expired.discard(trial)


def live(store, examples: int, steps: int) -> None:
    machine = type("Machine", (Life,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_any_order_keeps_the_rules(store):
    live(store, examples=12, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_order_keeps_the_rules_long(store):
    live(store, examples=300, steps=80)
