"""Campaigns: settings, budget and state of one launch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from sqlalchemy import ColumnElement, Row, func, insert, select, update

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import ledger, text
from swarm.memory.database import Database
from swarm.memory.errors import ConflictError
from swarm.memory.events import record
from swarm.memory.records import Budget, CampaignRecord, CampaignState
from swarm.memory.rows import read
from swarm.memory.tables import campaigns
from swarm.memory.types import utc_now


class Campaigns:
    """`store.campaigns`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str | None, settings: Mapping[str, Any], budget: Budget, seed: int) -> CampaignRecord:
        """Start a campaign; without a name it is called `campaign-N`.

        Raises:
            UsageError: the store has a campaign of that name.
        """
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} is out of range.", "Give a number from 0 to 2^63 - 1.")
        try:
            with self._database.write() as connection:
                if not name or not text.name(name):
                    count = connection.execute(select(func.coalesce(func.max(campaigns.c.id), 0))).scalar_one()
                    name = f"campaign-{count + 1}"
                row = {
                    "name": text.name(name),
                    "settings": text.document(dict(settings)),
                    "budget": budget.model_dump(mode="json"),
                    "seed": seed,
                    "state": "running",
                }
                made = connection.execute(insert(campaigns).values(row).returning(campaigns)).one()
                ledger.open_accounts(connection, made.id, budget)
        except ConflictError as error:
            raise UsageError(
                f"the store has a campaign called {name!r}.",
                f"Resume it with `swarm resume {name}`, or give another --name.",
            ) from error
        return _record(made)

    def get(self, name_or_id: str | int | None = None) -> CampaignRecord:
        """A campaign by name or id; None is the latest one.

        Raises:
            UnknownNameError: there is none.
        """
        query = select(campaigns).order_by(campaigns.c.id.desc()).limit(1)
        if isinstance(name_or_id, int):
            query = query.where(campaigns.c.id == name_or_id)
        elif name_or_id is not None:
            by_name: ColumnElement[bool] = campaigns.c.name == name_or_id
            is_id = name_or_id.isascii() and name_or_id.isdecimal() and len(name_or_id) < 16
            query = query.where(by_name | (campaigns.c.id == int(name_or_id)) if is_id else by_name)
            query = query.order_by(None).order_by(by_name.desc())
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            known = ", ".join(campaign.name for campaign in self.list()[-10:])
            raise UnknownNameError("campaign", str(name_or_id or "latest"), known)
        return _record(row)

    def list(self) -> list[CampaignRecord]:
        """All campaigns, oldest first."""
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(select(campaigns).order_by(campaigns.c.id))]

    def finish(self, campaign_id: int, state: CampaignState) -> CampaignRecord:
        """Set the state of a campaign: complete, failed or interrupted end it, running opens it again."""
        if state not in get_args(CampaignState):
            raise UsageError(f"unknown campaign state {state!r}.", f"Known: {', '.join(get_args(CampaignState))}.")
        with self._database.write() as connection:
            finished = None if state == "running" else utc_now()
            statement = update(campaigns).where(campaigns.c.id == campaign_id).values(state=state, finished_at=finished)
            row = connection.execute(statement.returning(campaigns)).one_or_none()
            if row is not None:
                record(connection, f"campaign.{state}", "", campaign_id=campaign_id)
        if row is None:
            raise UnknownNameError("campaign", str(campaign_id))
        return _record(row)


def _record(row: Row[Any]) -> CampaignRecord:
    return read(CampaignRecord, row, budget=Budget.model_validate(row.budget))
