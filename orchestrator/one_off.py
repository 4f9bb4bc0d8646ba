"""Trials that no campaign proposes: a command runs them itself and keeps them in a campaign of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.experiments.spec import Failure, Measurement
    from swarm.memory.records import CampaignRecord, Proposal, TrialRecord
    from swarm.memory.store import Store


@contextmanager
def recording(store: Store, stem: str, facts: Mapping[str, Any], trials: int) -> Iterator[CampaignRecord]:
    """A campaign `STEM-1` (or the next free number) for so many trials; finished when the block is left."""
    from swarm.memory.records import Budget

    taken = {campaign.name for campaign in store.campaigns.list()}
    name = next(name for n in range(1, len(taken) + 2) if (name := f"{stem}-{n}") not in taken)
    campaign = store.campaigns.create(name, facts, Budget(trials=trials), 0)
    try:
        yield campaign
    except BaseException:
        # Not `interrupted`: it cannot be resumed, what it measured may be another thing by then.
        store.campaigns.finish(campaign.id, "failed")
        raise
    store.campaigns.finish(campaign.id, "complete")


def record(
    store: Store, campaign: CampaignRecord, number: int, proposal: Proposal, result: Measurement | Failure
) -> TrialRecord:
    """Write what was measured as a trial of a campaign."""
    from swarm.orchestrator.leases import owner_name

    trial = store.propose(campaign.id, number, proposal)
    lease = store.queue.claim(trial.id, owner_name())
    if lease is None:
        raise RuntimeError(f"trial {trial.id}, just added, is taken")
    (written,) = store.record([(lease, trial, result)])
    if written is None:
        raise RuntimeError(f"trial {trial.id} was taken over while its result was written")
    return written
