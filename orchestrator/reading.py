"""Reads a campaign back for the commands that show it. Knows the store and how texts refer to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store


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
