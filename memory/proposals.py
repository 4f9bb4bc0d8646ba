"""What was proposed, by whom, from which findings, and with which prediction. Knows no results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.records import Prediction, Proposal, ProposalRecord
from swarm.memory.tables import findings, predictions, proposal_parents, proposals, trials

_INSERT = insert(proposals).returning(proposals.c.id)


def write(
    connection: Connection, campaign_id: int, number: int, proposal: Proposal, trial_id: int | None, refused: str = ""
) -> int:
    """Add a proposal inside a running transaction; returns its id.

    Raises:
        UsageError: a parent finding or the prediction's reference trial does not exist.
    """
    row = {
        "campaign_id": campaign_id,
        "trial_id": trial_id,
        "number": number,
        "proposer": text.name(proposal.proposer, 64),
        "arm": proposal.arm,
        "rationale": text.clean(proposal.rationale),
        "refused": text.clean(refused),
    }
    identity = int(connection.execute(_INSERT, row).scalar_one())
    if proposal.parents:
        _write_parents(connection, identity, set(proposal.parents))
    if proposal.prediction is not None and trial_id is not None:
        _write_prediction(connection, trial_id, proposal.prediction)
    return identity


def _write_parents(connection: Connection, proposal_id: int, wanted: set[int]) -> None:
    query = select(findings.c.id, findings.c.revision).where(findings.c.id.in_(wanted))
    known = connection.execute(query).all()
    missing = sorted(wanted - {row.id for row in known})
    if missing:
        raise UsageError(f"the proposal names findings that do not exist: {missing[:10]}.", "Name stored findings.")
    rows = [{"proposal_id": proposal_id, "finding_id": row.id, "revision": row.revision} for row in known]
    connection.execute(insert(proposal_parents), rows)


def _write_prediction(connection: Connection, trial_id: int, prediction: Prediction) -> None:
    reference = prediction.reference
    # `<`: a trial may not be its own measure, nor that of an earlier one (lineage would run in a circle).
    known = select(trials.c.id).where(trials.c.id == reference, trials.c.id < trial_id)
    if reference is not None and connection.execute(known).first() is None:
        raise UsageError(f"the prediction refers to trial {reference}, which does not exist.", "Name an earlier trial.")
    row = {
        "trial_id": trial_id,
        "metric": text.name(prediction.metric, 64),
        "comparator": prediction.comparator,
        "threshold": prediction.threshold,
        "reference_id": reference,
    }
    connection.execute(insert(predictions), row)


class Proposals:
    """`store.proposals`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def refuse(self, campaign_id: int, number: int, proposal: Proposal, reason: str) -> int:
        """Record a proposal that will not run, with the reason; returns the proposal's id."""
        with self._database.write() as connection:
            return write(connection, campaign_id, number, proposal, None, reason)

    def get(self, proposal_id: int) -> ProposalRecord:
        """A proposal by id.

        Raises:
            UnknownNameError: there is none.
        """
        with self._database.read() as connection:
            found = _records(connection, select(proposals).where(proposals.c.id == proposal_id))
        if not found:
            raise UnknownNameError("proposal", str(proposal_id))
        return found[0]

    def list(self, campaign_id: int | None = None, *, refused: bool | None = None) -> list[ProposalRecord]:
        """Proposals, oldest first: all, those that were refused, or those that became trials."""
        query = select(proposals).order_by(proposals.c.id)
        if campaign_id is not None:
            query = query.where(proposals.c.campaign_id == campaign_id)
        if refused is not None:
            query = query.where(proposals.c.trial_id.is_(None) if refused else proposals.c.trial_id.is_not(None))
        with self._database.read() as connection:
            return _records(connection, query)


def _records(connection: Connection, query: Select[Any]) -> list[ProposalRecord]:
    rows: Sequence[Row[Any]] = connection.execute(query).all()
    parents: dict[int, list[int]] = defaultdict(list)
    mine = select(proposal_parents).where(proposal_parents.c.proposal_id.in_([row.id for row in rows]))
    for row in connection.execute(mine.order_by(proposal_parents.c.finding_id)):
        parents[row.proposal_id].append(row.finding_id)
    return [
        ProposalRecord(
            id=row.id,
            campaign_id=row.campaign_id,
            trial_id=row.trial_id,
            number=row.number,
            proposer=row.proposer,
            arm=row.arm,
            rationale=row.rationale,
            refused=row.refused,
            parents=tuple(parents[row.id]),
            created_at=row.created_at,
        )
        for row in rows
    ]
