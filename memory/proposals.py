"""What was proposed, by whom, from which findings, and what was predicted of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.events import record
from swarm.memory.records import Prediction, PredictionRecord, Proposal, ProposalRecord, Score
from swarm.memory.rows import matching, read
from swarm.memory.tables import findings, predictions, proposal_parents, proposals, trials
from swarm.memory.types import utc_now

_SCORED = select(predictions, trials.c.campaign_id, trials.c.proposer).join(
    trials, trials.c.id == predictions.c.trial_id
)
_INSERT = insert(proposals).returning(proposals.c.id)


def write(connection: Connection, campaign_id: int, number: int, proposal: Proposal, trial_id: int) -> int:
    """Add the proposal of a trial inside a running transaction; returns its id.

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
        "refused": "",
    }
    identity = int(connection.execute(_INSERT, row).scalar_one())
    if proposal.parents:
        _write_parents(connection, identity, set(proposal.parents))
    if proposal.prediction is not None:
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

    def get(self, proposal_id: int) -> ProposalRecord:
        """A proposal by id.

        Raises:
            UnknownNameError: there is none.
        """
        parents = select(proposal_parents.c.finding_id).where(proposal_parents.c.proposal_id == proposal_id)
        with self._database.read() as connection:
            row = connection.execute(select(proposals).where(proposals.c.id == proposal_id)).one_or_none()
            if row is None:
                raise UnknownNameError("proposal", str(proposal_id))
            found = connection.execute(parents.order_by(proposal_parents.c.finding_id)).scalars()
            return read(ProposalRecord, row, parents=tuple(found))


def predicted(row: Row[Any]) -> Prediction:
    """The prediction that a row of its table holds."""
    return read(Prediction, row, reference=row.reference_id)


class Predictions:
    """`store.predictions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def score(self, trial_id: int, score: Score) -> None:
        """Record how the prediction about a trial came out; the verdict `open` takes a score back.

        Raises:
            UnknownNameError: that trial has no prediction.
        """
        values = {**score.model_dump(), "scored_by": "referee", "scored_at": utc_now()}
        with self._database.write() as connection:
            statement = update(predictions).where(predictions.c.trial_id == trial_id)
            done = connection.execute(statement.values(values)).rowcount
            if done:
                row = connection.execute(_SCORED.where(trials.c.id == trial_id)).one()
                place = {"campaign_id": row.campaign_id, "trial_id": trial_id}
                data = score.model_dump(exclude={"verdict"})
                record(connection, f"prediction.{score.verdict}", _told(row), **place, data=data)
        if not done:
            raise UnknownNameError("prediction of trial", str(trial_id))

    def list(self, campaign_id: int | None = None) -> list[PredictionRecord]:
        """Predictions in order of their trials; the verdict of those not scored yet is `open`."""
        query = matching(_SCORED, {trials.c.campaign_id: campaign_id}).order_by(predictions.c.trial_id)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [read(PredictionRecord, row, prediction=predicted(row), scored_by=row.scored_by or "") for row in rows]


def _told(row: Row[Any]) -> str:
    """A scored prediction in a few words."""
    times = "" if row.reference_id is None else f" times that of trial {row.reference_id}"
    text = f"{row.proposer} predicted {row.metric} {row.comparator} {row.threshold:.3g}{times} for trial {row.trial_id}"
    if row.observed is None:
        return f"{text}, which cannot be told from what was measured."
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3g}, {row.high:.3g}]"
    return f"{text}; it is {row.observed:.3g}{interval}."
