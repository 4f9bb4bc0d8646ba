"""Reads a campaign back for the commands that show it. Knows the store and how texts refer to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.agents.analysis.verify import Change
    from swarm.agents.history import History
    from swarm.agents.writing.references import Resolver
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


def everything(store: Store, campaign: CampaignRecord) -> History:
    """All that is known of a campaign, nothing hidden."""
    from swarm.agents.history import History

    records = store.trials.list(campaign.id)
    findings, summaries = store.findings.list(campaign.id), store.summaries.list(campaign.id)
    return History.before(campaign.budget.trials, records, 0, findings, summaries)


def resolver(store: Store, campaign: CampaignRecord) -> Resolver:
    """What resolves the references of a campaign's texts, from the store as it is now."""
    from swarm.agents.settings import AgentSettings
    from swarm.agents.writing.references import Resolver

    known = {key: value for key, value in campaign.settings.items() if key in AgentSettings.model_fields}
    return Resolver(everything(store, campaign), AgentSettings.model_validate(known))


def rendered(store: Store, campaign: CampaignRecord, text: str) -> str:
    """A summary's text with every reference resolved from the store as it is now."""
    return resolver(store, campaign).render(text)


def changes(store: Store, campaign: CampaignRecord) -> list[Change]:
    """The findings that the measurements do not carry any more as they are stored.

    Raises:
        UsageError: the campaign's agenda cannot be read any more.
    """
    from swarm.agents.analysis.verify import recheck
    from swarm.agents.published_claims import schema
    from swarm.experiments.models.base import ModelInfo

    names = campaign.settings.get("models", ())
    known = {info["name"]: ModelInfo.model_validate(info) for info in store.models.list()}
    agenda = campaign.settings.get("agenda")
    return recheck(
        everything(store, campaign),
        {name: known[name] for name in names if name in known},
        schema.load(agenda) if agenda else None,
    )
