"""What was proposed, by whom, from which findings, what was predicted of it, and proposals from outside that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from swarm.experiments.identity import fingerprint
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import ledger, text
from swarm.memory.database import Database
from swarm.memory.errors import BudgetError
from swarm.memory.events import Events, record
from swarm.memory.ledger import Ledger
from swarm.memory.records import ExternalProposal, Prediction, PredictionRecord, Proposal, ProposalRecord, Score
from swarm.memory.rows import matching, read
from swarm.memory.tables import campaigns, findings, predictions, proposal_parents, proposals, trials
from swarm.memory.types import utc_now

_SCORED = select(predictions, trials.c.campaign_id, trials.c.proposer).join(
    trials, trials.c.id == predictions.c.trial_id
)
_INSERT = insert(proposals).returning(proposals.c.id)
EXTERNAL = "proposal.offered"
"""The kind of event that a proposal from outside a campaign is kept as until the campaign takes it up."""


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


class ExternalProposals:
    """`store.external_proposals`. One becomes a trial under a number of the campaign, and stays it after a resume."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = Events(database)
        self._ledger = Ledger(database)

    def add(self, campaign_id: int, proposal: Proposal) -> ExternalProposal:
        """Leave a proposal for the campaign; its proposer needs room in the budget of trials.

        Raises:
            BudgetError: the proposer's share of the trials is used up, waiting proposals included.
            UsageError: the campaign is over, or the same experiment has been proposed from outside before.
        """
        asked = fingerprint(proposal.spec)
        with self._database.write() as connection:
            ledger.lock(connection, campaign_id)
            state = connection.execute(select(campaigns.c.state).where(campaigns.c.id == campaign_id)).scalar_one()
            if state in ("complete", "failed"):
                raise UsageError(f"the campaign is {state}: it takes no proposals.", "Launch a new one.")
            known = self.list(campaign_id)
            if any(one.fingerprint == asked for one in known):
                raise UsageError("this experiment has been proposed before.", "Propose another one.")
            mine = sum(o.trial_id is None and o.proposal.proposer == proposal.proposer for o in known)
            room = self._room(campaign_id, proposal.proposer)
            if room is not None and mine >= room:
                raise BudgetError(
                    f"{proposal.proposer} has no trials left: {mine} of its proposals wait for {room:g}.",
                    "Wait for their results, or start `swarm mcp` with more --trials.",
                )
            data = proposal.model_dump(mode="json")
            identity = record(connection, EXTERNAL, text.clean(proposal.rationale), campaign_id=campaign_id, data=data)
        return ExternalProposal(id=identity, campaign_id=campaign_id, proposal=proposal, fingerprint=asked)

    def list(self, campaign_id: int) -> list[ExternalProposal]:
        """All of them, oldest first, each with the trial that it became."""
        found = []
        for event in self._events.list(campaign_id, kind=EXTERNAL):
            proposal = Proposal.model_validate(event.data)
            found.append((event.id, proposal, fingerprint(proposal.spec)))
        query = select(trials.c.fingerprint, trials.c.id).where(
            trials.c.campaign_id == campaign_id, trials.c.fingerprint.in_([entry[2] for entry in found])
        )
        with self._database.read() as connection:
            known = {row.fingerprint: row.id for row in connection.execute(query)} if found else {}
        return [
            ExternalProposal(id=i, campaign_id=campaign_id, proposal=p, fingerprint=f, trial_id=known.get(f))
            for i, p, f in found
        ]

    def waiting(self, campaign_id: int) -> Sequence[Proposal]:
        """What can be taken up now: not run yet, and paid for by the share of whoever proposed it."""
        waiting = [one.proposal for one in self.list(campaign_id) if one.trial_id is None]
        room = {name: self._room(campaign_id, name) for name in {proposal.proposer for proposal in waiting}}
        return [p for p in waiting if (left := room[p.proposer]) is None or left >= 1]

    def _room(self, campaign_id: int, proposer: str) -> float | None:
        """Trials that a proposer may still use; None without a cap."""
        for account in self._ledger.accounts(campaign_id):
            if account.kind == "trials" and account.role == proposer and account.cap is not None:
                return account.cap - account.spent - account.reserved
        return None
