"""Facts about the models that trials ran on, so that questions about depth need no model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from sqlalchemy import select

from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.rows import upsert
from swarm.memory.tables import models


class Models:
    """`store.models`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, info: BaseModel) -> None:
        """Record what is known of a model (a `ModelInfo`): name, family, digest, layers and the rest."""
        data: dict[str, Any] = info.model_dump(mode="json")
        row = {
            "name": text.name(data["name"]),
            "family": text.name(data["family"], 64),
            "digest": text.name(data["digest"], 128),
            "n_layers": data["n_layers"],
            "info": text.document(data),
        }
        with self._database.write() as connection:
            statement = upsert(connection, models).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))

    def list(self) -> list[dict[str, Any]]:
        """What is known of every model that was registered, by name."""
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(select(models.c.info).order_by(models.c.name)).scalars()]
