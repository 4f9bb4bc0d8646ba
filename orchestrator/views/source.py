"""Reads what is shown of a campaign, once for all who need it; for pages within bounds, so that no store hangs one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import SwarmError, UsageError

if TYPE_CHECKING:
    from swarm.agents.history import History
    from swarm.agents.settings import AgentSettings
    from swarm.agents.writing.references import Resolver
    from swarm.experiments.models.base import ModelInfo
    from swarm.memory.records import CampaignRecord, FindingRecord, SummaryRecord, TrialRecord, TrialState
    from swarm.memory.store import Store

REMEDY = "Ask with `swarm query`, which may wait."


@contextmanager
def open_store(flag: str | None) -> Iterator[Store]:
    """The store that a command reads; one of an older release is upgraded, nothing else in it is touched.

    Raises:
        StoreError: it does not exist or cannot be read.
    """
    from swarm.memory.store import Store
    from swarm.orchestrator.settings import store_url

    with Store.read(store_url(flag)) as store:
        yield store


@contextmanager
def open_campaign(flag: str | None, campaign: str | None) -> Iterator[Source]:
    """The campaign that a command reads, the latest one by default, without bounds.

    Raises:
        StoreError: the store does not exist or cannot be read.
        UnknownNameError: there is no such campaign.
    """
    with open_store(flag) as store:
        yield Source(store, store.campaigns.get(campaign))


def stored_models(store: Store) -> dict[str, ModelInfo]:
    """The models that a store knows, by name; none has to be on this machine."""
    from swarm.experiments.models.base import ModelInfo

    known = (ModelInfo.model_validate(info) for info in store.models.list())
    return {info.name: info for info in known}


@dataclass(frozen=True)
class Bounds:
    """How much may be read: trials as whole records, rows, findings, seconds of one query and of all of them.

    As they stand they are those of a page.
    """

    trials: int = 2_000
    rows: int = 5_000
    findings: int = 500
    seconds: float = 3.0
    together: float = 10.0


PAGE = Bounds()
REPORT = Bounds(trials=20_000, rows=20_000, findings=2_000, seconds=30.0, together=600.0)
"""A report is made once, and nobody waits at a page for it."""
WHOLE = Bounds(trials=10**9, rows=10_000_000, findings=10**9, seconds=3_600.0, together=86_400.0)
"""A command may read everything."""


class TooMuchError(SwarmError):
    """A part of a page that would read more of the store than a page may."""


class Source:
    """A campaign to read from. What several readers need is read once.

    Args:
        store: where it is.
        campaign: which one.
        bounds: how much may be read.
    """

    def __init__(self, store: Store, campaign: CampaignRecord, bounds: Bounds = WHOLE) -> None:
        self.store = store
        self.campaign = campaign
        self.bounds = bounds
        self._spent = 0.0

    def rows(self, sql: str, limit: int | None = None, **numbers: int) -> list[dict[str, Any]]:
        """The rows of a SELECT of ours, in which `{campaign}` and `numbers` stand for whole numbers.

        Raises:
            TooMuchError: it takes longer than a page may.
        """
        limit = min(limit or self.bounds.rows, self.bounds.rows)
        values = {name: int(value) for name, value in {"campaign": self.campaign.id, **numbers}.items()}
        seconds = min(self.bounds.seconds, self.bounds.together - self._spent)
        started = time.monotonic()
        try:
            if seconds <= 0:
                raise TooMuchError("This page has taken long enough already.", REMEDY)
            return self.store.query(sql.format(**values), limit=limit, seconds=seconds).records()
        except UsageError as error:
            if "took longer" not in error.problem:
                raise
            raise TooMuchError(f"Reading this takes longer than {self.bounds.seconds:g} s.", REMEDY) from error
        finally:
            self._spent += time.monotonic() - started

    def trials(self, sql: str, limit: int, **numbers: int) -> list[TrialRecord]:
        """Whole records, with their series, of the trials whose `id` a SELECT gives, in its order."""
        ids = [int(row["id"]) for row in self.rows(sql, limit, **numbers)]
        found = {record.id: record for record in self.store.trials.list(ids=ids)} if ids else {}
        return [found[identity] for identity in ids if identity in found]

    @property
    def front(self) -> list[int]:
        """Numbers in the store of the trials on a Pareto front of KLD and bits per value, of any protocol and rung."""
        return [row["trial_id"] for row in self.rows("SELECT trial_id FROM pareto WHERE campaign_id = {campaign}")]

    @cached_property
    def counts(self) -> Mapping[TrialState, int]:
        """Trials by state."""
        return self.store.trials.count(self.campaign.id)

    @property
    def total(self) -> int:
        """Trials proposed so far."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Trials that have ended, one way or another."""
        return sum(amount for state, amount in self.counts.items() if state not in ("waiting", "running"))

    @cached_property
    def models(self) -> list[str]:
        """Names of the models that were measured, in the order of the settings."""
        rows = self.rows("SELECT DISTINCT model FROM trials WHERE campaign_id = {campaign} ORDER BY model")
        known = [str(row["model"]) for row in rows]
        wanted = [name for name in self.campaign.settings.get("models") or () if name in known]
        return [*wanted, *(name for name in known if name not in wanted)]

    @cached_property
    def infos(self) -> Mapping[str, Mapping[str, Any]]:
        """Facts about the models, where the store has them."""
        known = {str(info["name"]): info for info in self.store.models.list()}
        return {name: known[name] for name in self.models if name in known}

    @cached_property
    def findings(self) -> list[FindingRecord]:
        """Findings in order of their first appearance."""
        return self.store.findings.list(self.campaign.id, limit=self.bounds.findings)

    @cached_property
    def summaries(self) -> list[SummaryRecord]:
        """Summaries, oldest first."""
        return self.store.summaries.list(self.campaign.id)

    @cached_property
    def settings(self) -> AgentSettings:
        """The settings that the agents read."""
        from swarm.agents.settings import AgentSettings

        known = {key: value for key, value in self.campaign.settings.items() if key in AgentSettings.model_fields}
        return AgentSettings.model_validate(known)

    @cached_property
    def history(self) -> History:
        """All trials as records, with their series.

        Raises:
            TooMuchError: there are too many for a page.
        """
        from swarm.agents.history import History

        if self.total > self.bounds.trials:
            raise TooMuchError(
                f"This reads every trial, and the campaign has {self.total:,}: more than {self.bounds.trials:,}.",
                "Ask with `swarm query`.",
            )
        records = self.store.trials.list(self.campaign.id)
        return History.before(self.campaign.next_number + 1, records, 0, self.findings, self.summaries)

    @cached_property
    def resolver(self) -> Resolver:
        """Resolves the references in texts."""
        from swarm.agents.writing.references import Resolver

        return Resolver(self.history, self.settings)
