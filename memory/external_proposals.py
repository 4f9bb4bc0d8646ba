"""Proposals that somebody outside a campaign makes: kept as events until the campaign takes them up."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from swarm.experiments.identity import fingerprint
from swarm.kernels.errors import UsageError
from swarm.memory import ledger, text
from swarm.memory.database import Database
from swarm.memory.errors import BudgetError
from swarm.memory.events import Events, record
from swarm.memory.ledger import Ledger
from swarm.memory.records import ExternalProposal, Proposal
from swarm.memory.tables import campaigns, trials

KIND = "proposal.offered"


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
            identity = record(connection, KIND, text.clean(proposal.rationale), campaign_id=campaign_id, data=data)
        return ExternalProposal(id=identity, campaign_id=campaign_id, proposal=proposal, fingerprint=asked)

    def list(self, campaign_id: int) -> list[ExternalProposal]:
        """All of them, oldest first, each with the trial that it became."""
        found = []
        for event in self._events.list(campaign_id, kind=KIND):
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
