"""What a driver shows its agents of the trials it knows."""

from random import Random

import pytest

from swarm.agents.history import History
from swarm.memory.records import TrialRecord
from swarm.orchestrator.campaign_state import Roster
from swarm.orchestrator.rehearsal import Rehearsal

STATES = ("complete", "failed", "pruned", "quarantined", "running", "waiting")


def record(number: int, state: str) -> TrialRecord:
    proposal = Rehearsal.parse("1", seed=0).propose(number, None)
    spec, proposer = proposal.spec, proposal.proposer
    return TrialRecord(
        id=number + 1, number=number, campaign_id=1, fingerprint=spec.fingerprint(), spec=spec, arm=proposal.arm,
        proposer=proposer, state=state, outcome="ok", seconds=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_history_is_the_same_whether_all_trials_are_looked_at_or_the_finished_ones_copied(store, seed):
    rng = Random(seed)
    roster = Roster(store, 1)
    finished = rng.randrange(5, 20)
    for number in range(finished + rng.randrange(5, 20)):
        roster.put(record(number, rng.choice(STATES[:4] if number < finished else STATES)))
    for lag in (0, 1, 8, 100):
        for number in (0, 1, finished, len(roster) // 2, len(roster)):
            seen = roster.history(number, lag)
            assert seen == History.before(number, roster.records, lag)
            assert seen.at(number) == seen
            assert seen.at(number // 2) == History.before(number // 2, seen.records, lag)
