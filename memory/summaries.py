"""Summaries with their evidence, and what people said of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, get_args

from sqlalchemy import Connection, Row, insert, select, update

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.events import record
from swarm.memory.findings import check_evidence
from swarm.memory.records import ReviewState, Summary, SummaryRecord
from swarm.memory.rows import matching, read
from swarm.memory.tables import reviews, summaries, summary_evidence


class Summaries:
    """`store.summaries`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, campaign_id: int, summary: Summary) -> SummaryRecord:
        """Record a summary.

        Raises:
            UsageError: the evidence names a trial that does not exist or is not finished.
        """
        row = {
            "campaign_id": campaign_id,
            "title": text.name(summary.title),
            "text": text.clean(summary.text, text.LONG),
            "author": text.name(summary.author, 64),
            "state": summary.state,
        }
        with self._database.write() as connection:
            check_evidence(connection, summary.evidence)
            new = connection.execute(insert(summaries).values(row).returning(summaries)).one()
            rows = [{"summary_id": new.id, "trial_id": trial} for trial in sorted(set(summary.evidence))]
            if rows:
                connection.execute(insert(summary_evidence), rows)
            return _records(connection, [new])[0]

    def get(self, summary_id: int) -> SummaryRecord:
        """A summary by id, with its latest review.

        Raises:
            UnknownNameError: there is none.
        """
        with self._database.read() as connection:
            rows = connection.execute(select(summaries).where(summaries.c.id == summary_id)).all()
            if not rows:
                raise UnknownNameError("summary", str(summary_id), "what `swarm review` lists")
            return _records(connection, rows)[0]

    def list(self, campaign_id: int | None = None, *, state: ReviewState | None = None) -> list[SummaryRecord]:
        """Summaries, oldest first."""
        query = matching(select(summaries), {summaries.c.campaign_id: campaign_id, summaries.c.state: state})
        with self._database.read() as connection:
            return _records(connection, connection.execute(query.order_by(summaries.c.id)).all())

    def review(self, summary_id: int, state: ReviewState, reviewer: str, note: str = "") -> SummaryRecord:
        """Record what a person said; a later review overrides an earlier one, and both stay.

        Raises:
            UnknownNameError: there is no such summary.
            UsageError: the state is not one of pending, accepted, rejected.
        """
        if state not in get_args(ReviewState):
            raise UsageError(f"unknown review state {state!r}.", f"Known: {', '.join(get_args(ReviewState))}.")
        row = {
            "summary_id": summary_id,
            "state": state,
            "reviewer": text.name(reviewer),
            "note": text.clean(note),
        }
        with self._database.write() as connection:
            statement = update(summaries).where(summaries.c.id == summary_id).values(state=state)
            campaign_id = connection.execute(statement.returning(summaries.c.campaign_id)).scalar_one_or_none()
            if campaign_id is not None:
                connection.execute(insert(reviews).values(row))
                what = {"summary_id": summary_id, "reviewer": row["reviewer"]}
                record(connection, f"summary.{state}", str(row["note"]), campaign_id=campaign_id, data=what)
        if campaign_id is None:
            raise UnknownNameError("summary", str(summary_id), "what `swarm review` lists")
        return self.get(summary_id)


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[SummaryRecord]:
    ids = [row.id for row in rows]
    cited: dict[int, list[int]] = defaultdict(list)
    query = select(summary_evidence).where(summary_evidence.c.summary_id.in_(ids))
    for row in connection.execute(query.order_by(summary_evidence.c.trial_id)):
        cited[row.summary_id].append(row.trial_id)
    latest = {
        row.summary_id: row
        for row in connection.execute(select(reviews).where(reviews.c.summary_id.in_(ids)).order_by(reviews.c.id))
    }
    return [
        read(
            SummaryRecord,
            row,
            summary=read(Summary, row, evidence=tuple(cited[row.id])),
            note=latest[row.id].note if row.id in latest else "",
            reviewer=latest[row.id].reviewer if row.id in latest else "",
            reviewed_at=latest[row.id].created_at if row.id in latest else None,
        )
        for row in rows
    ]
