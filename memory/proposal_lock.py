"""Whose turn it is to propose: several drivers share a campaign by proposing one after another.

Knows numbers and the budget of trials; knows no proposals.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, select, update

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import ledger, text
from swarm.memory.claim_queue import expired
from swarm.memory.errors import BudgetError, LeaseLostError
from swarm.memory.records import UNFINISHED, Turn
from swarm.memory.result_writer import Results
from swarm.memory.tables import campaigns, trials
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


class Turns(Results):
    """The turn-taking part of `store.trials`."""

    def allocate(self, campaign_id: int, owner: str, *, lag: int | None = None, ttl: float = 120.0) -> Turn | None:
        """Take the turn to propose the next trial; several drivers share a campaign and its budget by it.

        Turns are given one after another: number n only after all before it are proposed, and with a `lag` only
        when trials 0 .. n - lag - 1 are finished. So a proposal stays a function of its number and the history,
        whichever driver makes it. `add` ends the turn; an expired one goes to whoever asks next.

        Returns:
            The turn, or None when another driver has it or the lag is not over: do something else meanwhile.

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
            token = connection.execute(statement.returning(campaigns.c.turn_token)).scalar_one()
        return Turn(campaign_id=campaign_id, number=row.next_number, owner=owner, token=token, ttl=ttl)

    def give_up_turn(self, turn: Turn) -> None:
        """End a turn without a proposal; a lost turn is no error."""
        mine = (campaigns.c.id == turn.campaign_id, campaigns.c.turn_token == turn.token)
        with self._database.write() as connection:
            connection.execute(update(campaigns).where(*mine).values(turn_owner=None))

    def _may_propose(self, connection: Connection, campaign_id: int, lag: int | None) -> Row[Any] | None:
        row = connection.execute(_STATE, {"b_campaign": campaign_id}).one_or_none()
        if row is None:
            raise UnknownNameError("campaign", str(campaign_id))
        if row.next_number >= row.budget["trials"]:
            raise BudgetError(f"all {row.budget['trials']} trials of the campaign are proposed.")
        if row.turn_owner is not None and not row.free:
            return None
        if lag is not None:
            horizon = {"b_campaign": campaign_id, "b_horizon": row.next_number - lag}
            if connection.execute(_LATE, horizon).scalar_one():
                return None
        return row

    def _advance(self, connection: Connection, campaign_id: int, number: int, turn: Turn | None) -> None:
        row = connection.execute(_STATE, {"b_campaign": campaign_id}).one_or_none()
        if row is None:
            raise UnknownNameError("campaign", str(campaign_id))
        if turn is not None and (row.turn_token != turn.token or row.turn_owner is None or number != row.next_number):
            raise LeaseLostError(f"the turn to propose trial {turn.number} was lost.", "Ask for the next one.")
        if number > row.next_number:
            raise UsageError(f"trial {number} was proposed before trial {row.next_number}.", "Propose without gaps.")
        if number == row.next_number:
            connection.execute(_NEXT, {"b_campaign": campaign_id})
