"""Proposing and trial_rows trials. Knows proposals and records; turns, claims and results are in files of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, insert, select

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import ledger, proposals, text, trial_rows
from swarm.memory.errors import ConflictError, DuplicateTrialError
from swarm.memory.proposal_lock import Turns
from swarm.memory.records import Proposal, TrialRecord, TrialState, Turn
from swarm.memory.tables import trials

_INSERT = insert(trials).returning(trials.c.id, trials.c.created_at)


class Trials(Turns):
    """`store.trials`."""

    def add(self, campaign_id: int, number: int, proposal: Proposal, turn: Turn | None = None) -> TrialRecord:
        """Record a proposal as trial `number`, its prediction before it runs, and reserve one trial of the budget.

        Args:
            campaign_id: the campaign.
            number: position in the campaign, from 0, without gaps.
            proposal: what to run and why.
            turn: from `allocate`, where several drivers propose; ends with this call unless it is a duplicate.

        Raises:
            DuplicateTrialError: the campaign has that number or that fingerprint; propose something else.
            BudgetError: the trials of the budget are used up.
            LeaseLostError: the turn had expired and went to somebody else.
            UsageError: a parent finding or a prediction's reference trial does not exist.
        """
        spec = proposal.spec
        row = {
            "campaign_id": campaign_id,
            "number": number,
            "state": "waiting",
            "proposer": text.name(proposal.proposer, 64),
            "arm": proposal.arm,
            **trial_rows.columns(spec),
        }
        try:
            with self._database.write() as connection:
                ledger.lock(connection, campaign_id)
                self._advance(connection, campaign_id, number, turn)
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
        arm: str | None = None,
        fingerprint: str | None = None,
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
            arm: of one arm.
            fingerprint: of one specification.
            after: with a number above this one.
            upto: with a number up to this one, inclusive.
            ids: these ones.
            best: `kld` or `bits_per_value`: completed trials, smallest first, instead of by number.
            limit: at most so many.
            arrays: also read the arrays; without them `arrays` is empty.
        """
        query = select(trials)
        equal = {
            "campaign_id": campaign_id,
            "model": model,
            "protocol": protocol,
            "arm": arm,
            "fingerprint": fingerprint,
        }
        for name, value in equal.items():
            if value is not None:
                query = query.where(trials.c[name] == value)
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
        if campaign_id is not None:
            query = query.where(trials.c.campaign_id == campaign_id)
        with self._database.read() as connection:
            return connection.execute(query).scalars().all()

    def count(self, campaign_id: int) -> dict[TrialState, int]:
        """How many trials of a campaign are in each state."""
        with self._database.read() as connection:
            return trial_rows.count(connection, campaign_id)

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


def _ranked(query: Select[Any], best: str) -> Select[Any]:
    if best not in ("kld", "bits_per_value"):
        raise UsageError(f"trials are not ranked by {best!r}.", "Rank by kld or bits_per_value.")
    column = trials.c[best]
    return query.where(trials.c.state == "complete", column.is_not(None)).order_by(column, trials.c.id)
