"""The campaign loop: propose, claim, run, record, analyse, until the budget is used exactly.

One driver in one thread; several drivers may share a campaign. Knows the store, the agents and the pool by what
they promise; measures nothing and decides nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from swarm.agents.history import FINISHED, History
from swarm.kernels.errors import SwarmError
from swarm.memory.errors import BudgetError, LeaseLostError
from swarm.memory.records import CampaignState, Finding, Proposal, Summary, TrialRecord
from swarm.orchestrator.campaign_state import CampaignView
from swarm.orchestrator.leases import WallClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.agents.analysis.judge import Score
    from swarm.memory.records import CampaignRecord, Turn
    from swarm.memory.store import Store
    from swarm.orchestrator.leases import HeldLeases
    from swarm.orchestrator.monitor.progress import View
    from swarm.orchestrator.pool import Ending, Pool
    from swarm.orchestrator.stop import Stop

PATIENCE = 0.5
"""Seconds between looks at what other drivers did, while there is nothing to do here."""
BRIEFLY = 0.05
"""Seconds until the next try when another driver has the turn to propose."""
TURN = 5.0
"""Seconds after which a driver that took the turn to propose and died loses it."""
GRACE = 2.0
"""Seconds that running trials get to end when the campaign is stopped."""


class Strategy(Protocol):
    """Who proposes: a pure function of number and history."""

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number."""

    def commentary(self, history: History) -> str:
        """What an LLM says about the history in plain words; empty without one."""


class Engine(Protocol):
    """Who analyses: pure functions of number and history."""

    def analyse(self, number: int, history: History) -> Sequence[Finding]:
        """The findings in what is known before that number."""

    def score(self, history: History) -> Mapping[int, Score]:
        """New scores of registered predictions, by trial id."""

    def is_milestone(self, number: int) -> tuple[bool, bool]:
        """Whether to analyse, and whether to summarise, before proposing that number."""

    def summarise(self, history: History, words: str = "") -> Summary:
        """What people are told, with the words of an LLM."""


class Driver:
    """Drives one campaign to its end, or to where it is told to stop.

    Args:
        store: where everything is recorded.
        campaign: which campaign.
        strategy: who proposes.
        engine: who analyses.
        pool: who runs trials; started by the caller.
        leases: this driver's leases, entered by the caller.
        view: who is told.
        stop: asked between any two steps.
        lag: how many of the latest results a proposal does not see.
    """

    def __init__(
        self,
        store: Store,
        campaign: CampaignRecord,
        strategy: Strategy,
        engine: Engine,
        pool: Pool,
        leases: HeldLeases,
        view: View,
        stop: Stop,
        *,
        lag: int,
    ) -> None:
        self._store = store
        self._campaign = campaign
        self._strategy = strategy
        self._engine = engine
        self._pool = pool
        self._leases = leases
        self._view = view
        self._stop = stop
        self._clock = WallClock(store, campaign.id)
        self._lag = lag
        self._capacity = min(lag, 3 * pool.workers + 2)
        self._roster = CampaignView(store, campaign.id, leases)
        self._turn: Turn | None = None
        self._ready: list[TrialRecord] = []
        self._looked = 0.0

    def run(self) -> CampaignState:
        """Go on until the budget is used, time is up or a stop is requested.

        Returns:
            The state in which the campaign was left: complete or interrupted.
        """
        try:
            self._view.phase(f"starting {self._pool.workers} workers")
            self._look()
            self._claim_waiting()
            while not self._is_over():
                if self._stop.requested or not self._clock.tick():
                    return self._wind_up()
                self._step()
            self._summarise_all()
            return self._end_as("complete")
        except BaseException:
            with suppress(SwarmError):  # the store may be what failed
                self._let_go()
            raise

    def _step(self) -> None:
        """Think, then write all there is to write in one transaction, then hand trials to the workers."""
        turn, self._turn = self._turn, None
        proposal = self._draft(turn) if turn is not None else None
        due = proposal is not None or self._is_due()
        results = self._pool.collect(0.0 if proposal is not None else BRIEFLY if due else PATIENCE)
        with self._store.batch():
            ended = self._record(results)
            if turn is not None and proposal is not None:
                self._add(turn, proposal)
            if self._is_due():
                self._turn = self._take_turn()
        self._begin()
        self._tell(ended)
        if proposal is None and not results:
            self._look_after_others()

    # --- proposing -----------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        """Whether this driver could propose: there is room, a number is left, and no result of its own is missing."""
        number = len(self._roster)
        if number >= self._campaign.budget.trials or self._pool.load + len(self._ready) >= self._capacity:
            return False
        late = self._roster.records[self._roster.settled : max(0, number - self._lag)]
        return not any(record.state not in FINISHED and record.id in self._leases for record in late)

    def _take_turn(self) -> Turn | None:
        try:
            return self._store.trials.allocate(self._campaign.id, self._leases.owner, lag=self._lag, ttl=TURN)
        except BudgetError:  # other drivers have proposed the rest
            return None

    def _draft(self, turn: Turn) -> Proposal:
        if turn.number != len(self._roster) or self._roster.settled < turn.number - self._lag:
            self._look()
        analyse, summarise = self._engine.is_milestone(turn.number)
        if analyse:
            self._analyse(turn.number, self._lag)
        if summarise:
            self._summarise(turn.number, self._lag)
        return self._strategy.propose(turn.number, self._roster.history(turn.number, self._lag))

    def _add(self, turn: Turn, proposal: Proposal) -> None:
        try:
            record = self._store.trials.add(self._campaign.id, turn.number, proposal, turn)
        except LeaseLostError:  # this took longer than a turn lasts, and another driver went on
            return
        self._roster.put(record)
        if self._leases.take(record.id):
            self._ready.append(record)

    def _analyse(self, number: int, lag: int) -> None:
        history = self._roster.history(number, lag)
        scores = self._engine.score(history)
        found = self._engine.analyse(number, history)
        with self._store.batch():
            for trial_id, score in scores.items():
                self._store.predictions.score(
                    trial_id, score.verdict, observed=score.observed, low=score.low, high=score.high
                )
            for finding in found:
                self._store.findings.upsert(self._campaign.id, finding)
        self._roster.score({trial_id: score.verdict for trial_id, score in scores.items()})
        self._roster.read_findings()
        self._view.found(found)

    def _summarise(self, number: int, lag: int) -> None:
        history = self._roster.history(number, lag)
        summary = self._engine.summarise(history, self._strategy.commentary(history))
        self._store.summaries.add(self._campaign.id, summary)
        self._roster.read_summaries()

    # --- running -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        for record in self._ready:
            self._pool.submit(record.id, record.spec)
        self._ready.clear()

    def _claim_waiting(self) -> None:
        """Take over trials that were proposed and not run: by an earlier run, or by a driver that is gone."""
        while self._pool.load < self._capacity:
            lease = self._leases.take_next(self._campaign.id)
            if lease is None:
                return
            if lease.number >= len(self._roster):
                self._look()
            record = self._roster.records[lease.number]
            if record.outdated:  # claimed, it runs with the present versions
                record = self._store.trials.get(record.id)
                self._roster.put(record)
            self._ready.append(record)
            self._begin()

    def _record(self, ended: Sequence[Ending]) -> list[TrialRecord]:
        written = self._roster.write(ended) if ended else []
        self._ready += [record for record in written if record.state == "waiting" and record.id in self._leases]
        return written

    def _tell(self, ended: Sequence[TrialRecord]) -> None:
        for record in ended:
            if record.state in FINISHED:
                self._view.finished(record)
            else:
                self._view.tell(f"trial {record.id} is tried once more: {record.message}")

    # --- other drivers -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Bring the roster up to date with the store."""
        for record in self._roster.refresh():
            self._view.board.restore(record)
        self._looked = time.monotonic()

    def _look_after_others(self) -> None:
        if self._pool.load < self._capacity and time.monotonic() - self._looked >= PATIENCE:
            self._look()
            self._claim_waiting()

    # --- ending --------------------------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._roster.settled >= self._campaign.budget.trials

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
            results = self._pool.collect(deadline - time.monotonic())
            with self._store.batch():
                ended = self._record(results)
            self._tell(ended)
        if not asked and not self._stop.requested:
            self._summarise_all()
        return self._end_as("interrupted")

    def _summarise_all(self) -> None:
        self._view.phase("the agents write their summary")
        self._analyse(len(self._roster), 0)
        self._summarise(len(self._roster), 0)

    def _end_as(self, state: CampaignState) -> CampaignState:
        self._let_go()
        self._store.campaigns.finish(self._campaign.id, state)
        return state

    def _let_go(self) -> None:
        with self._store.batch():
            if self._turn is not None:
                self._store.trials.give_up_turn(self._turn)
            for lease in self._leases.drain():
                self._store.trials.release(lease)
        self._clock.stop()
