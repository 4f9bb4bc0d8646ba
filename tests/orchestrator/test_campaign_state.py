"""What a driver shows its agents of the trials it knows, and what becomes of trials that fail."""

from random import Random

import pytest
from ray.exceptions import OutOfMemoryError

from swarm.agents.history import History
from swarm.experiments.identity import fingerprint
from swarm.experiments.spec import Failure
from swarm.memory.records import TrialRecord
from swarm.orchestrator.campaign_state import CampaignView
from swarm.orchestrator.leases import HeldLeases
from swarm.orchestrator.rehearsal import Rehearsal
from swarm.orchestrator.worker_handle import EVICTED, LOST, why_lost

STATES = ("complete", "failed", "pruned", "quarantined", "running", "waiting")


def record(number: int, state: str) -> TrialRecord:
    proposal = Rehearsal.parse("1", seed=0).propose(number, None)
    spec, proposer = proposal.spec, proposal.proposer
    return TrialRecord(
        id=number + 1, number=number, campaign_id=1, fingerprint=fingerprint(spec), spec=spec, arm=proposal.arm,
        proposer=proposer, state=state, outcome="ok", seconds=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_history_is_the_same_whether_all_trials_are_looked_at_or_the_finished_ones_copied(store, seed):
    rng = Random(seed)
    view = CampaignView(store, 1, HeldLeases(store))
    finished = rng.randrange(5, 20)
    for number in range(finished + rng.randrange(5, 20)):
        view.put(record(number, rng.choice(STATES[:4] if number < finished else STATES)))
    for lag in (0, 1, 8, 100):
        for number in (0, 1, finished, len(view) // 2, len(view)):
            seen = view.history(number, lag)
            assert seen == History.before(number, view.records, lag)
            assert seen.at(number) == seen
            assert seen.at(number // 2) == History.before(number // 2, seen.records, lag)


def test_an_eviction_by_ray_is_told_from_a_crash():
    failure = why_lost(OutOfMemoryError("1 worker(s) were killed due to the node running low on memory."))
    assert failure.kind == EVICTED
    assert "memory" in failure.message


@pytest.mark.parametrize(
    ("kind", "retries", "outcome", "state"), [(EVICTED, 1, "oom", "failed"), (LOST, 3, "crash", "")]
)
def test_a_trial_that_lost_its_worker_is_run_again_so_often_and_then_counts(
    store, campaign, kind, retries, outcome, state
):
    made = campaign(3)
    leases = HeldLeases(store)
    view = CampaignView(store, made.id, leases)
    record = store.propose(made.id, 0, Rehearsal.parse("1", seed=0).propose(0, None))
    view.put(record)
    leases.take(record.id)
    ended = [(record.id, Failure(kind=kind, message="the machine is to blame"))]
    for _ in range(retries):
        (again,) = view.write(ended)
        assert again.state == "waiting"
        assert record.id in leases
    (end,) = view.write(ended)
    assert end.outcome == outcome
    if state:
        assert store.trials.get(record.id).state == state
        assert store.ledger.totals(made.id)["trials"].reserved == 0
    assert store.check() == []
