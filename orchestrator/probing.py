"""Keeps what a probe measured: a campaign of its own, one trial per context. Knows the store; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from swarm.experiments.spec import Failure
from swarm.memory.records import Budget, CampaignRecord, Proposal
from swarm.orchestrator.leases import owner_name

if TYPE_CHECKING:
    from swarm.experiments.engines.probe.endpoint import Endpoint
    from swarm.experiments.engines.probe.scenarios import Probed, ProbeSettings
    from swarm.memory.store import Store

REFUSED = "refused"


class Keeper:
    """Writes results of one probe as they come."""

    def __init__(self, store: Store, campaign: CampaignRecord, title: str) -> None:
        self.campaign = campaign
        self._store = store
        self._title = title
        self._number = 0

    def keep(self, found: Probed) -> int:
        """Write a result as a trial; returns its id."""
        proposal = Proposal(spec=found.spec, proposer="probe", arm="defaults", rationale=f"probe of {self._title}")
        trial = self._store.propose(self.campaign.id, self._number, proposal)
        self._number += 1
        lease = self._store.queue.claim(trial.id, owner_name())
        if lease is None:
            raise RuntimeError(f"trial {trial.id}, just added, is taken")
        self._store.record([(lease, trial, found.measurement or Failure(kind=REFUSED, message=found.refusal))])
        return trial.id


@contextmanager
def keeping(store: Store, endpoint: Endpoint, settings: ProbeSettings) -> Iterator[Keeper]:
    """A campaign for one probe; finished when the block is left."""
    taken = {campaign.name for campaign in store.campaigns.list()}
    stem = f"probe-{endpoint.engine.name}"
    name = next(name for n in range(1, len(taken) + 2) if (name := f"{stem}-{n}") not in taken)
    facts = {"probe": endpoint.name, "engine": endpoint.engine.name, "model": endpoint.model}
    budget = Budget(trials=len(set(settings.contexts)))
    campaign = store.campaigns.create(name, {**facts, **settings.model_dump(mode="json")}, budget, 0)
    try:
        yield Keeper(store, campaign, f"{endpoint.engine.title} at {endpoint.name}")
    except BaseException:
        # Not `interrupted`: a probe cannot be resumed, the engine may be another one by then.
        store.campaigns.finish(campaign.id, "failed")
        raise
    store.campaigns.finish(campaign.id, "complete")
