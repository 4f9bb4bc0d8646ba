"""Reading trials back: by id, by any filter, ranked, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, func, select

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import trial_rows
from swarm.memory.database import Database
from swarm.memory.records import TrialRecord, TrialState
from swarm.memory.rows import matching
from swarm.memory.tables import trials


class Trials:
    """`store.trials`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, trial_id: int) -> TrialRecord:
        """A trial by id, with its arrays.

        Raises:
            UnknownNameError: there is none.
        """
        with self._database.read() as connection:
            found = trial_rows.records(connection, select(trials).where(trials.c.id == trial_id))
        if not found:
            raise UnknownNameError("trial", str(trial_id), "what `swarm trials` lists")
        return found[0]

    def list(
        self,
        campaign_id: int | None = None,
        *,
        model: str | None = None,
        protocol: str | None = None,
        state: TrialState | Iterable[TrialState] | None = None,
        after: int | None = None,
        upto: int | None = None,
        ids: Sequence[int] | None = None,
        best: str | None = None,
        limit: int | None = None,
        arrays: bool = True,
    ) -> list[TrialRecord]:
        """Trials that pass all filters, by campaign and number.

        Args:
            campaign_id: of one campaign.
            model: of one model.
            protocol: of one protocol.
            state: in one state, or in one of several.
            after: with a number above this one.
            upto: with a number up to this one, inclusive.
            ids: these ones.
            best: `kld` or `bits_per_value`: completed trials, smallest first, instead of by number.
            limit: at most so many.
            arrays: also read the arrays; without them `arrays` is empty.
        """
        equal = {trials.c.campaign_id: campaign_id, trials.c.model: model, trials.c.protocol: protocol}
        query = matching(select(trials), equal)
        if state is not None:
            query = query.where(trials.c.state.in_((state,) if isinstance(state, str) else tuple(state)))
        if ids is not None:
            query = query.where(trials.c.id.in_(ids))
        if after is not None:
            query = query.where(trials.c.number > after)
        if upto is not None:
            query = query.where(trials.c.number <= upto)
        query = query.order_by(trials.c.campaign_id, trials.c.number) if best is None else _ranked(query, best)
        with self._database.read() as connection:
            return trial_rows.records(connection, query.limit(limit), arrays=arrays)

    def ids(self, campaign_id: int | None = None, *, after: int = 0, limit: int | None = None) -> Sequence[int]:
        """Ids of trials above `after`, ascending: to walk through a store of any size."""
        query = select(trials.c.id).where(trials.c.id > after).order_by(trials.c.id).limit(limit)
        with self._database.read() as connection:
            return connection.execute(matching(query, {trials.c.campaign_id: campaign_id})).scalars().all()

    def count(self, campaign_id: int) -> dict[TrialState, int]:
        """How many trials of a campaign are in each state."""
        query = select(trials.c.state, func.count()).where(trials.c.campaign_id == campaign_id).group_by(trials.c.state)
        with self._database.read() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}


def _ranked(query: Select[Any], best: str) -> Select[Any]:
    if best not in ("kld", "bits_per_value"):
        raise UsageError(f"trials are not ranked by {best!r}.", "Rank by kld or bits_per_value.")
    column = trials.c[best]
    return query.where(trials.c.state == "complete", column.is_not(None)).order_by(column, trials.c.id)
