"""The shared memory as one object: `Store.open(...)`, its parts, and what spans several of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from swarm.memory import copying, integrity, query, schema
from swarm.memory.calls import AgentCalls
from swarm.memory.campaigns import Campaigns
from swarm.memory.claim_queue import ClaimQueue
from swarm.memory.database import Database
from swarm.memory.errors import OlderStoreError, StoreError
from swarm.memory.events import Events
from swarm.memory.findings import Findings
from swarm.memory.ledger import Ledger
from swarm.memory.models import Models
from swarm.memory.proposal_lock import ProposalLock
from swarm.memory.proposals import ExternalProposals, Predictions, Proposals
from swarm.memory.records import Lease, Proposal, TrialRecord
from swarm.memory.result_writer import Done, ResultWriter
from swarm.memory.summaries import Summaries
from swarm.memory.trials import Trials


class Store:
    """One database that everything is remembered in.

    Safe for several processes and, within a process, for several threads (writes go one after another).
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.campaigns = Campaigns(database)
        self.models = Models(database)
        self.trials = Trials(database)
        self.queue = ClaimQueue(database)
        self.proposal_lock = ProposalLock(database)
        self.proposals = Proposals(database)
        self.external_proposals = ExternalProposals(database)
        self.findings = Findings(database)
        self.summaries = Summaries(database)
        self.predictions = Predictions(database)
        self.agent_calls = AgentCalls(database)
        self.events = Events(database)
        self.ledger = Ledger(database)
        self._results = ResultWriter(database)

    @classmethod
    def open(cls, url_or_path: str | os.PathLike[str], create: bool = False, readonly: bool = False) -> Self:
        """Open a store: a path of a SQLite file, or a URL `postgresql+psycopg://...`.

        A store of an older release is upgraded, unless `readonly`.

        Args:
            url_or_path: where it is.
            create: make it when it does not exist.
            readonly: refuse all writes, and touch nothing.

        Raises:
            ForeignStoreError: the database is damaged or another program's; nothing was changed.
            NewerStoreError: a newer release wrote it; nothing was changed.
            StoreError: it does not exist, or cannot be opened, read or written.
        """
        return cls(schema.open_database(os.fspath(url_or_path), create=create, readonly=readonly))

    @classmethod
    def read(cls, url_or_path: str | os.PathLike[str]) -> Self:
        """Open a store to read it; one of an older release is upgraded first, where it can be written.

        Raises:
            StoreError: as for `open`.
        """
        try:
            return cls.open(url_or_path, readonly=True)
        except OlderStoreError as older:
            try:
                cls.open(url_or_path).close()
            except StoreError as error:
                raise older from error
            return cls.open(url_or_path, readonly=True)

    @property
    def place(self) -> str:
        """The path, or the URL without its password."""
        return self.database.place

    def batch(self) -> AbstractContextManager[None]:
        """Commit the writes of a `with` block together: about ten times as many per second.

        They are durable when the block is left. Each operation inside stays atomic on its own: a refused one
        takes back itself alone, and the others are committed, also when an exception leaves the block.
        """
        return self.database.batch()

    def propose(self, campaign_id: int, number: int, proposal: Proposal, lease: Lease | None = None) -> TrialRecord:
        """Record a proposal as a trial, its prediction before it runs, and reserve one trial of the budget.

        Args:
            campaign_id: the campaign.
            number: position in the campaign, from 0, without gaps.
            proposal: what to run and why.
            lease: from `proposal_lock`, where several drivers propose; ends with this call unless it is a duplicate.

        Raises:
            DuplicateTrialError: the campaign has that number or that fingerprint; propose something else.
            BudgetError: the trials of the budget are used up.
            LeaseLostError: the lease had expired and went to somebody else.
            UsageError: a parent finding or a prediction's reference trial does not exist.
        """
        return self.proposal_lock.propose(campaign_id, number, proposal, lease)

    def record(self, done: Sequence[Done]) -> list[TrialRecord | None]:
        """Write what came of trials and settle what was reserved for them, in one transaction.

        The first failure of the kind `crash` (the worker died) gives a trial back to be tried once more; the second
        one quarantines it with the cause. `pruned` ends a trial as pruned, every other kind as failed.

        Args:
            done: leases from `queue`, their trials, and the measurement or failure of each.

        Returns:
            The trials as they are now, in that order; one that is `waiting` is to be claimed again. None where the
            lease had expired or was taken over: nothing of it is written but an event. When nobody took the trial,
            `queue.claim` gets a new lease, under which the same result can be written.
        """
        return self._results.record(done)

    def query(self, sql: str, *, limit: int = 1_000, seconds: float = 10.0) -> query.Result:
        """Answer one SELECT, at most `limit` rows in at most `seconds`; see `swarm.memory.query`.

        Raises:
            UsageError: the statement is wrong, writes, is more than one, or takes too long.
        """
        return query.run(self.database, sql, limit=limit, seconds=seconds)

    def check(self) -> list[str]:
        """What is wrong with the store, one line each; empty when nothing is (see `swarm.memory.integrity`)."""
        return integrity.check(self.database)

    def backup(self, target: str | os.PathLike[str]) -> Path:
        """Copy the store to a new SQLite file, while it is in use; returns the file's path.

        Raises:
            StoreError: the file exists, or cannot be written.
        """
        return copying.backup(self.database, os.fspath(target))

    def close(self) -> None:
        """Close all connections."""
        self.database.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
