"""Proposing trials one after another, so that several drivers can share a campaign and its budget."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, insert, select, update

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import ledger, proposals, text
from swarm.memory.claim_queue import expired
from swarm.memory.database import Database
from swarm.memory.errors import BudgetError, ConflictError, DuplicateTrialError, LeaseLostError
from swarm.memory.records import UNFINISHED, Lease, Proposal, TrialRecord
from swarm.memory.tables import campaigns, trials
from swarm.memory.trials import columns
from swarm.memory.types import epoch_now

_HERE = campaigns.c.id == bindparam("b_campaign")
_STATE = select(
    campaigns.c.next_number,
    campaigns.c.budget,
    campaigns.c.turn_owner,
    campaigns.c.turn_token,
    expired(campaigns.c.turn_at, campaigns.c.turn_expires).label("free"),
).where(_HERE)
_LATE = select(
    exists().where(
        trials.c.campaign_id == bindparam("b_campaign"),
        trials.c.state.in_(UNFINISHED),
        trials.c.number < bindparam("b_horizon"),
    )
)
_NEXT = update(campaigns).where(_HERE).values(next_number=campaigns.c.next_number + 1, turn_owner=None)
_INSERT = insert(trials).returning(trials.c.id, trials.c.created_at)


class ProposalLock:
    """`store.proposal_lock`: the right to propose the next trial of a campaign, as a lease."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, campaign_id: int, owner: str, *, lag: int | None = None, ttl: float = 120.0) -> Lease | None:
        """Take the right to propose the next trial.

        It is given for one number after another: number n only after all before it are proposed, and with a `lag` only
        when trials 0 .. n - lag - 1 are finished. So a proposal stays a function of its number and the history,
        whichever driver makes it. `propose` ends the lease; an expired one goes to whoever asks next.

        Returns:
            The lease, or None when another driver has it or the lag is not over: do something else meanwhile.

        Raises:
            BudgetError: all trials of the budget are proposed.
        """
        with self._database.read() as connection:  # whoever waits asks often, and needs no write lock for it
            if self._may_propose(connection, campaign_id, lag) is None:
                return None
        now = epoch_now()
        with self._database.write() as connection:
            ledger.lock(connection, campaign_id)
            row = self._may_propose(connection, campaign_id, lag)
            if row is None:
                return None
            taken = {"turn_owner": text.name(owner), "turn_token": campaigns.c.turn_token + 1}
            statement = update(campaigns).where(campaigns.c.id == campaign_id)
            statement = statement.values(**taken, turn_at=now, turn_expires=now + ttl)
            made = connection.execute(statement.returning(campaigns.c.turn_token, campaigns.c.turn_expires)).one()
        return Lease(
            campaign_id=campaign_id,
            number=row.next_number,
            owner=owner,
            token=made.turn_token,
            ttl=ttl,
            expires=made.turn_expires,
        )

    def release(self, lease: Lease) -> None:
        """End a lease without a proposal; a lost one is no error."""
        mine = (campaigns.c.id == lease.campaign_id, campaigns.c.turn_token == lease.token)
        with self._database.write() as connection:
            connection.execute(update(campaigns).where(*mine).values(turn_owner=None))

    def propose(self, campaign_id: int, number: int, proposal: Proposal, lease: Lease | None = None) -> TrialRecord:
        """Record a proposal as a trial; see `Store.propose`."""
        spec = proposal.spec
        row = {
            "campaign_id": campaign_id,
            "number": number,
            "state": "waiting",
            "proposer": text.name(proposal.proposer, 64),
            "arm": proposal.arm,
            **columns(spec),
        }
        try:
            with self._database.write() as connection:
                ledger.lock(connection, campaign_id)
                self._advance(connection, campaign_id, number, lease)
                made = connection.execute(_INSERT, row).one()
                proposal_id = proposals.write(connection, campaign_id, number, proposal, made.id)
                ledger.hold(connection, campaign_id, "trials", 1.0, role=row["proposer"], trial_id=made.id)
        except ConflictError as error:
            raise self._duplicate(campaign_id, number, row["fingerprint"]) or error from error
        return TrialRecord(
            id=made.id,
            number=number,
            campaign_id=campaign_id,
            fingerprint=row["fingerprint"],
            spec=spec,
            arm=proposal.arm,
            proposer=row["proposer"],
            rationale=text.clean(proposal.rationale),
            prediction=proposal.prediction,
            verdict=None if proposal.prediction is None else "open",
            parents=tuple(sorted(set(proposal.parents))),
            proposal_id=proposal_id,
            created_at=made.created_at,
        )

    def _may_propose(self, connection: Connection, campaign_id: int, lag: int | None) -> Row[Any] | None:
        row = self._state(connection, campaign_id)
        if row.next_number >= row.budget["trials"]:
            raise BudgetError(f"all {row.budget['trials']} trials of the campaign are proposed.")
        if row.turn_owner is not None and not row.free:
            return None
        if lag is not None:
            horizon = {"b_campaign": campaign_id, "b_horizon": row.next_number - lag}
            if connection.execute(_LATE, horizon).scalar_one():
                return None
        return row

    def _advance(self, connection: Connection, campaign_id: int, number: int, lease: Lease | None) -> None:
        row = self._state(connection, campaign_id)
        if lease is not None and (row.turn_token != lease.token or row.turn_owner is None or number != row.next_number):
            raise LeaseLostError(f"the right to propose trial {lease.number} was lost.", "Ask for the next one.")
        if number > row.next_number:
            raise UsageError(f"trial {number} was proposed before trial {row.next_number}.", "Propose without gaps.")
        if number == row.next_number:
            connection.execute(_NEXT, {"b_campaign": campaign_id})

    def _state(self, connection: Connection, campaign_id: int) -> Row[Any]:
        row = connection.execute(_STATE, {"b_campaign": campaign_id}).one_or_none()
        if row is None:
            raise UnknownNameError("campaign", str(campaign_id))
        return row

    def _duplicate(self, campaign_id: int, number: int, fingerprint: str) -> DuplicateTrialError | None:
        same = (trials.c.number == number) | (trials.c.fingerprint == fingerprint)
        query = select(trials.c.id, trials.c.number).where(trials.c.campaign_id == campaign_id, same)
        with self._database.read() as connection:
            row = connection.execute(query.limit(1)).first()
        if row is None:
            return None
        what = f"number {number}" if row.number == number else "that specification"
        return DuplicateTrialError(
            f"the campaign has a trial of {what} already (trial {row.id}).",
            "Propose another one; a replication has its own `replicate` number.",
        )
