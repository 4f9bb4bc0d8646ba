"""Calls of LLMs with their cost, recorded together with the ledger's entries."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import insert, select

from swarm.memory import ledger, text
from swarm.memory.database import Database
from swarm.memory.records import AgentCall, Reservation
from swarm.memory.rows import matching, read
from swarm.memory.tables import agent_calls


class AgentCalls:
    """`store.agent_calls`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, campaign_id: int, call: AgentCall, settle: Mapping[Reservation, float] | None = None) -> int:
        """Record a call and `settle` reservations with what was spent of each, in one transaction; returns its id."""
        names = {name: text.name(getattr(call, name)) for name in ("role", "prompt_hash", "model", "outcome")}
        row = {"campaign_id": campaign_id, **call.model_dump(), **names, "message": text.clean(call.message)}
        with self._database.write() as connection:
            ledger.lock(connection, campaign_id)
            for reservation, spent in (settle or {}).items():
                ledger.settle_one(connection, reservation, spent)
            return int(connection.execute(insert(agent_calls).values(row).returning(agent_calls.c.id)).scalar_one())

    def list(self, campaign_id: int | None = None) -> list[AgentCall]:
        """Calls, oldest first."""
        query = matching(select(agent_calls), {agent_calls.c.campaign_id: campaign_id}).order_by(agent_calls.c.id)
        with self._database.read() as connection:
            return [read(AgentCall, row) for row in connection.execute(query)]
