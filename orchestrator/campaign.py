"""The campaign loop: propose, claim, run, record, analyse, until the budget is used exactly.

One driver in one thread; several drivers may share a campaign. Knows the store, the agents and the pool by what
they promise; measures nothing and decides nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from swarm.agents.base import FINISHED, History
from swarm.kernels.errors import BudgetError, LeaseLostError, SwarmError
from swarm.memory.records import CampaignState, Finding, Lease, Proposal, Summary, TrialRecord
from swarm.orchestrator.pool import LOST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.agents.referee import Score
    from swarm.memory.records import CampaignRecord, Turn
    from swarm.memory.store import Store
    from swarm.orchestrator.leases import Leases
    from swarm.orchestrator.pool import Pool, Result
    from swarm.orchestrator.progress import View
    from swarm.orchestrator.stop import Stop
    from swarm.orchestrator.wallclock import WallClock

PATIENCE = 0.5
"""Seconds between looks at what other drivers did, while there is nothing to do here."""
TURN = 5.0
"""Seconds after which a driver that took the turn to propose and died loses it."""
GRACE = 2.0
"""Seconds that running trials get to end when the campaign is stopped."""


class Agents(Protocol):
    """What the loop needs of the agents: pure functions of number and history."""

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number."""

    def analyse(self, number: int, history: History) -> Sequence[Finding]:
        """The findings in what is known before that number."""

    def score(self, history: History) -> Mapping[int, Score]:
        """New scores of registered predictions, by trial id."""

    def is_milestone(self, number: int) -> tuple[bool, bool]:
        """Whether to analyse, and whether to summarise, before proposing that number."""

    def summarise(self, history: History) -> Summary:
        """What people are told."""


class Driver:
    """Drives one campaign to its end, or to where it is told to stop.

    Args:
        store: where everything is recorded.
        campaign: which campaign.
        agents: who proposes and analyses.
        pool: who runs trials; started by the caller.
        leases: this driver's leases, entered by the caller.
        view: who is told.
        stop: asked between any two steps.
        clock: the campaign's wall time.
        owner: name of this driver.
        lag: how many of the latest results a proposal does not see.
    """

    def __init__(
        self,
        store: Store,
        campaign: CampaignRecord,
        agents: Agents,
        pool: Pool,
        leases: Leases,
        view: View,
        stop: Stop,
        clock: WallClock,
        *,
        owner: str,
        lag: int,
    ) -> None:
        self._store = store
        self._campaign = campaign
        self._agents = agents
        self._pool = pool
        self._leases = leases
        self._view = view
        self._stop = stop
        self._clock = clock
        self._owner = owner
        self._lag = lag
        self._capacity = min(lag, 3 * pool.workers + 2)
        self._records: list[TrialRecord] = []
        self._looked = 0.0

    @property
    def records(self) -> Sequence[TrialRecord]:
        """The campaign's trials by number, as far as this driver knows."""
        return self._records

    def run(self) -> CampaignState:
        """Go on until the budget is used, time is up or a stop is requested.

        Returns:
            The state in which the campaign was left: complete or interrupted.
        """
        try:
            self._view.phase(f"starting {self._pool.workers} workers")
            self._look()
            for record in self._records:
                if record.state in FINISHED:
                    self._view.board.restore(record)
            self._claim_waiting()
            while not self._is_over():
                if self._stop.requested or not self._clock.tick():
                    return self._wind_up()
                self._step()
            return self._conclude()
        except BaseException:
            with suppress(SwarmError):  # the store may be what failed
                self._let_go()
            raise

    def _step(self) -> None:
        turn = self._take_turn()
        results = self._pool.collect(0.0 if turn is not None else PATIENCE)
        self._record(results)
        if turn is not None:
            self._propose(turn)
        elif not results:
            self._look_after_others()

    # --- proposing -----------------------------------------------------------------------------------------------

    def _take_turn(self) -> Turn | None:
        """The turn to propose the next trial, when there is room for it and it is due."""
        number = len(self._records)
        if self._pool.load >= self._capacity or number >= self._campaign.budget.trials or self._lags(number):
            return None
        try:
            return self._store.trials.allocate(self._campaign.id, self._owner, lag=self._lag, ttl=TURN)
        except BudgetError:  # other drivers have proposed the rest
            return None

    def _lags(self, number: int) -> bool:
        """Whether a result that the proposal must see is still to come from here."""
        horizon = max(0, number - self._lag)
        start = max(0, horizon - self._lag)
        return any(r.state not in FINISHED and r.id in self._leases for r in self._records[start:horizon])

    def _propose(self, turn: Turn) -> None:
        if turn.number != len(self._records) or self._behind(turn.number):
            self._look()
        self._milestone(turn.number)
        proposal = self._agents.propose(turn.number, self._history(turn.number, self._lag))
        try:
            with self._store.batch():
                record = self._store.trials.add(self._campaign.id, turn.number, proposal, turn)
                lease = self._claim(record.id)
        except LeaseLostError:  # this took longer than a turn lasts, and another driver went on
            return
        self._records.append(record)
        if lease is not None:
            self._begin(record, lease)

    def _behind(self, number: int) -> bool:
        return any(r.state not in FINISHED for r in self._records[: max(0, number - self._lag)])

    def _history(self, number: int, lag: int) -> History:
        return History.before(number, self._records, lag, self._findings, self._summaries)

    def _milestone(self, number: int) -> None:
        analyse, summarise = self._agents.is_milestone(number)
        if analyse:
            self._analyse(number, self._lag)
        if summarise:
            self._summarise(number, self._lag)

    def _analyse(self, number: int, lag: int) -> None:
        history = self._history(number, lag)
        scores = self._agents.score(history)
        found = self._agents.analyse(number, history)
        with self._store.batch():
            for trial_id, score in scores.items():
                self._store.predictions.score(
                    trial_id, score.verdict, observed=score.observed, low=score.low, high=score.high
                )
            for finding in found:
                self._store.findings.upsert(self._campaign.id, finding)
        for place, record in enumerate(self._records):
            if record.id in scores:
                self._records[place] = record.model_copy(update={"verdict": scores[record.id].verdict})
        self._read_findings()
        self._view.found(found)

    def _summarise(self, number: int, lag: int) -> None:
        summary = self._agents.summarise(self._history(number, lag))
        self._store.summaries.add(self._campaign.id, summary)
        self._summaries = self._store.summaries.list(self._campaign.id)

    # --- running -------------------------------------------------------------------------------------------------

    def _claim(self, trial_id: int) -> Lease | None:
        return self._store.trials.claim(trial_id, self._owner, self._leases.ttl)

    def _begin(self, record: TrialRecord, lease: Lease) -> None:
        self._leases.keep(lease)
        self._pool.submit(record.id, record.spec)

    def _claim_waiting(self) -> None:
        """Take over trials that were proposed and not run: by an earlier run, or by a driver that is gone."""
        while self._pool.load < self._capacity:
            lease = self._store.trials.claim_next(self._campaign.id, self._owner, self._leases.ttl)
            if lease is None:
                return
            if lease.number >= len(self._records):
                self._look()
            self._begin(self._records[lease.number], lease)

    def _record(self, results: Sequence[Result]) -> None:
        if not results:
            return
        ended: list[TrialRecord] = []
        with self._store.batch():
            for result in results:
                record = self._end(result)
                if record is not None:
                    ended.append(record)
        for record in ended:
            self._records[record.number] = record
            if record.state in FINISHED:
                self._view.finished(record)
            else:
                self._view.tell(f"trial {record.id} is tried once more: {record.message}")

    def _end(self, result: Result) -> TrialRecord | None:
        """Write one result; None when the trial belongs to somebody else by now."""
        lease = self._leases.give(result.key) or self._claim(result.key)
        if lease is None:
            return None
        record = self._records[lease.number]
        try:
            return self._write(record, lease, result)
        except LeaseLostError:
            again = self._claim(result.key)
            return None if again is None else self._write(record, again, result)

    def _write(self, record: TrialRecord, lease: Lease, result: Result) -> TrialRecord:
        outcome = result.outcome
        if outcome.measurement is not None:
            measured = outcome.measurement
            self._store.trials.complete(lease, measured, seconds=outcome.seconds)
            update: dict[str, object] = {
                "state": "complete",
                "metrics": {metric.name: metric for metric in measured.metrics},
                "arrays": measured.arrays,
                "environment": measured.environment,
                "notes": measured.notes,
            }
        elif outcome.kind == LOST:
            self._store.trials.release(lease)
            update = self._again(record, outcome.message)
        else:
            state = self._store.trials.fail(lease, outcome.kind, outcome.message, seconds=outcome.seconds)
            update = {"state": state, "message": outcome.message}
            if state == "waiting":
                update = self._again(record, outcome.message)
        return record.model_copy(update={**update, "outcome": outcome.kind, "seconds": outcome.seconds})

    def _again(self, record: TrialRecord, message: str) -> dict[str, object]:
        """Run a trial once more that was given back."""
        lease = self._claim(record.id)
        if lease is not None:
            self._begin(record, lease)
        return {"state": "waiting", "message": message}

    # --- other drivers -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Bring what is known up to date with the store."""
        known = len(self._records)
        stale = [r.id for r in self._records if r.state not in FINISHED and r.id not in self._leases]
        for record in self._store.trials.list(self._campaign.id, ids=stale) if stale else ():
            self._records[record.number] = record
            if record.state in FINISHED:
                self._view.board.restore(record)
        self._records += self._store.trials.list(self._campaign.id, after=known - 1)
        self._read_findings()
        self._summaries = self._store.summaries.list(self._campaign.id)
        self._looked = time.monotonic()

    def _read_findings(self) -> None:
        self._findings = self._store.findings.list(self._campaign.id)

    def _look_after_others(self) -> None:
        if self._pool.load < self._capacity and time.monotonic() - self._looked >= PATIENCE:
            self._look()
            self._claim_waiting()

    # --- ending --------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        total = self._campaign.budget.trials
        return len(self._records) >= total and all(r.state in FINISHED for r in self._records[-2 * self._lag - 2 :])

    def _conclude(self) -> CampaignState:
        self._summarise_all()
        return self._end_as("complete")

    def _summarise_all(self) -> None:
        self._view.phase("the agents write their summary")
        number = len(self._records)
        self._analyse(number, 0)
        self._summarise(number, 0)

    def _wind_up(self) -> CampaignState:
        """Begin nothing more, let running trials end for a moment, give the rest back."""
        asked = self._stop.requested
        self._view.phase("stopping: waiting for running trials" if asked else "time is up")
        with self._store.batch():
            for trial_id in self._pool.withdraw():
                lease = self._leases.give(trial_id)
                if lease is not None:
                    self._store.trials.release(lease)
        deadline = time.monotonic() + GRACE
        while self._pool.running and not self._stop.urgent and time.monotonic() < deadline:
            self._record(self._pool.collect(deadline - time.monotonic()))
        if not asked and not self._stop.requested:
            self._summarise_all()
        return self._end_as("interrupted")

    def _end_as(self, state: CampaignState) -> CampaignState:
        self._let_go()
        self._store.campaigns.finish(self._campaign.id, state)
        return state

    def _let_go(self) -> None:
        with self._store.batch():
            for lease in self._leases.drain():
                self._store.trials.release(lease)
        self._clock.stop()
