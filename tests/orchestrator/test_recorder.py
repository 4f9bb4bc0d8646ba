"""What becomes of trials that lost their worker for a reason outside them."""

import pytest
from ray.exceptions import OutOfMemoryError

from swarm.orchestrator.campaign_state import Roster
from swarm.orchestrator.leases import Leases
from swarm.orchestrator.pool import EVICTED, LOST, Result, _why_lost
from swarm.orchestrator.recorder import Recorder
from swarm.orchestrator.rehearsal import Rehearsal
from swarm.orchestrator.worker import Outcome


def test_an_eviction_by_ray_is_told_from_a_crash():
    kind, message = _why_lost(OutOfMemoryError("1 worker(s) were killed due to the node running low on memory."))
    assert kind == EVICTED
    assert "memory" in message


@pytest.mark.parametrize(
    ("kind", "retries", "outcome", "state"), [(EVICTED, 1, "oom", "failed"), (LOST, 3, "crash", "")]
)
def test_it_is_run_again_so_often_and_then_counts(store, campaign, kind, retries, outcome, state):
    made = campaign(3)
    roster, leases = Roster(store, made.id), Leases(store)
    recorder = Recorder(store, roster, leases, "me")
    record = store.trials.add(made.id, 0, Rehearsal.parse("1", seed=0).propose(0, None))
    roster.put(record)
    leases.keep(recorder.claim(record.id))
    result = Result(record.id, Outcome(kind, None, "the machine is to blame"), 0)
    for _ in range(retries):
        (end,) = recorder.end([result])
        assert end.record.state == "waiting"
        leases.keep(end.lease)
    (end,) = recorder.end([result])
    assert end.record.outcome == outcome
    if state:
        assert store.trials.get(record.id).state == state
        assert store.ledger.totals(made.id)["trials"].reserved == 0
    assert store.check() == []
