"""Reads a campaign back for the commands that show it. Knows the store and how texts refer to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store


@contextmanager
def open_store(flag: str | None) -> Iterator[Store]:
    """The store that a command reads; nothing in it is touched.

    Raises:
        StoreError: it does not exist or cannot be read.
    """
    from swarm.memory.store import Store
    from swarm.orchestrator.settings import store_url

    with Store.open(store_url(flag), readonly=True) as store:
        yield store


@contextmanager
def open_campaign(flag: str | None, campaign: str | None) -> Iterator[tuple[Store, CampaignRecord]]:
    """The store and the campaign that a command reads; the latest one by default.

    Raises:
        StoreError: the store does not exist or cannot be read.
        UnknownNameError: there is no such campaign.
    """
    with open_store(flag) as store:
        yield store, store.campaigns.get(campaign)


def rendered(store: Store, campaign: CampaignRecord, text: str) -> str:
    """A summary's text with every reference resolved from the store as it is now."""
    from swarm.agents.base import AgentSettings, History
    from swarm.agents.references import Resolver

    records = store.trials.list(campaign.id)
    history = History.before(
        campaign.budget.trials, records, 0, store.findings.list(campaign.id), store.summaries.list(campaign.id)
    )
    known = {key: value for key, value in campaign.settings.items() if key in AgentSettings.model_fields}
    return Resolver(history, AgentSettings.model_validate(known)).render(text)
