"""The loop of a campaign: propose, claim, run, record, analyse, until the budget is used exactly.

One driver in one thread; several drivers, each in a process of its own, may share a campaign.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Protocol

from swarm.agents.history import FINISHED, History
from swarm.kernels.errors import SwarmError
from swarm.memory.errors import BudgetError, LeaseLostError
from swarm.memory.records import CampaignState, Finding, Proposal, Summary, TrialRecord
from swarm.orchestrator.campaign_state import CampaignView
from swarm.orchestrator.leases import WallClock
from swarm.orchestrator.monitor.events import CampaignEvent, EventReader, PhaseChanged, SummaryWritten, TrialRetried

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.memory.records import CampaignRecord, Lease, Score
    from swarm.memory.store import Store
    from swarm.orchestrator.leases import HeldLeases
    from swarm.orchestrator.pool import Ending, Pool

IDLE_WAIT = 0.5
"""Seconds between looks at what other drivers did, while there is nothing to do here."""
RETRY_WAIT = 0.05
"""Seconds until the next try when another driver has the right to propose."""
PROPOSAL_TTL = 5.0
"""Seconds after which a driver that took the right to propose and died loses it."""
STOP_WAIT = 2.0
"""Seconds that running trials get to end when the campaign is stopped."""
EVENTS_EVERY = 1.0
"""Seconds between two looks for events in the store."""


class Strategy(Protocol):
    """Who proposes: a pure function of number and history."""

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number."""

    def commentary(self, history: History) -> str:
        """What an LLM says about the history in plain words; empty without one."""


class Analysis(Protocol):
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
    """Runs the trials of a campaign: iterating it yields what happens, up to the end, also after a loop left early.

    Args:
        store: where everything is recorded.
        record: which campaign.
        strategy: who proposes.
        engine: who analyses.
        pool: who runs trials; started by the caller.
        leases: this driver's leases, entered by the caller.
        lag: how many of the latest results a proposal does not see.
        workers: what is to be closed when the campaign ends.
        hurry: ends the waits of whoever proposes, when a stop is asked for.
    """

    def __init__(
        self,
        store: Store,
        record: CampaignRecord,
        strategy: Strategy,
        engine: Analysis,
        pool: Pool,
        leases: HeldLeases,
        *,
        lag: int,
        workers: ExitStack | None = None,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self.record = record
        self.state: CampaignState = record.state
        self._strategy = strategy
        self._engine = engine
        self._pool = pool
        self._leases = leases
        self._lag = lag
        self._hurry = hurry
        self._close_workers = weakref.finalize(self, (workers or ExitStack()).close)
        self._capacity = min(lag, 3 * pool.workers + 2)
        self._clock = WallClock(store, record.id)
        self._view = CampaignView(store, record.id, leases)
        self._reader = EventReader(store, record.id)
        self._events = self._drive()
        self._pending_events: list[CampaignEvent] = []
        self._proposing: Lease | None = None
        self._to_submit: list[TrialRecord] = []
        self.opened = False
        """Whether its first events were handed out."""
        self._stops = 0
        self._refreshed = self._events_read = 0.0

    def __iter__(self) -> Iterator[CampaignEvent]:
        return self._events

    def stop(self) -> None:
        """End within seconds; the second time at once. Safe in signal handlers."""
        self._stops += 1
        self._pool.wake()
        self._hurry()

    def close(self) -> None:
        """End the workers; the campaign is interrupted unless it is over."""
        self._events.close()
        with suppress(SwarmError):
            self._leave()  # it may never have been iterated
        self._close_workers()

    # --- the loop ------------------------------------------------------------------------------------------------

    def _drive(self) -> Generator[CampaignEvent]:
        try:
            self.opened = True
            yield from self._reader.open()
            yield PhaseChanged(f"starting {self._pool.workers} workers")
            self.store.ledger.forfeit_expired(self.record.id)
            self._refresh()
            self._claim_waiting()
            while self._view.settled < self.record.budget.trials:
                if self._stops or not self._clock.tick():
                    yield from self._wind_up()
                    break
                self._step()
                yield from self._new_events()
            else:
                yield from self._conclude()
                self._end_as("complete")
            yield from self._new_events(now=True)
        except (KeyboardInterrupt, GeneratorExit):
            with suppress(SwarmError):
                self._leave()
            raise
        except BaseException:
            with suppress(SwarmError):  # the store may be what failed
                self._let_go()
            raise
        finally:
            self._close_workers()

    def _step(self) -> None:
        """Propose, then write all there is to write in one transaction, then hand trials to the workers."""
        lease, self._proposing = self._proposing, None
        proposal = self._draft(lease) if lease is not None else None
        due = proposal is not None or self._may_propose()
        ended = self._pool.collect(0.0 if proposal is not None else RETRY_WAIT if due else IDLE_WAIT)
        with self.store.batch():
            self._write(ended)
            if lease is not None and proposal is not None:
                self._add(lease, proposal)
            if self._may_propose():
                self._proposing = self._claim_next_number()
        self._submit()
        if proposal is None and not ended:
            self._look_after_others()

    def _new_events(self, *, now: bool = False) -> Iterator[CampaignEvent]:
        """What happened since the last call; in the store, since the last look a second ago."""
        if now or time.monotonic() - self._events_read >= EVENTS_EVERY:
            self._events_read = time.monotonic()
            self._pending_events += self._reader.read()
        news, self._pending_events = self._pending_events, []
        yield from news

    # --- proposing -----------------------------------------------------------------------------------------------

    def _may_propose(self) -> bool:
        """Whether this driver could propose: there is room, a number is left, and no result of its own is missing."""
        number = len(self._view)
        if number >= self.record.budget.trials or self._pool.load + len(self._to_submit) >= self._capacity:
            return False
        late = self._view.records[self._view.settled : max(0, number - self._lag)]
        return not any(record.state not in FINISHED and record.id in self._leases for record in late)

    def _claim_next_number(self) -> Lease | None:
        try:
            return self.store.proposal_lock.claim(self.record.id, self._leases.owner, lag=self._lag, ttl=PROPOSAL_TTL)
        except BudgetError:  # other drivers have proposed the rest
            return None

    def _draft(self, lease: Lease) -> Proposal:
        if lease.number != len(self._view) or self._view.settled < lease.number - self._lag:
            self._refresh()
        analyse, summarise = self._engine.is_milestone(lease.number)
        if analyse:
            self._analyse(lease.number, self._lag)
        if summarise:
            self._summarise(lease.number, self._lag)
        return self._strategy.propose(lease.number, self._view.history(lease.number, self._lag))

    def _add(self, lease: Lease, proposal: Proposal) -> None:
        try:
            record = self.store.propose(self.record.id, lease.number, proposal, lease)
        except LeaseLostError:  # this took longer than the right to propose lasts, and another driver went on
            return
        self._view.put(record)
        if self._leases.take(record.id):
            self._to_submit.append(record)

    def _analyse(self, number: int, lag: int) -> None:
        history = self._view.history(number, lag)
        scores = self._engine.score(history)
        found = self._engine.analyse(number, history)
        with self.store.batch():
            for trial_id, score in scores.items():
                self.store.predictions.score(trial_id, score)
            stored = [self.store.findings.upsert(self.record.id, finding) for finding in found]
        self._view.score({trial_id: score.verdict for trial_id, score in scores.items()})
        self._view.findings |= {record.id: record for record in stored}

    def _summarise(self, number: int, lag: int) -> None:
        history = self._view.history(number, lag)
        summary = self._engine.summarise(history, self._strategy.commentary(history))
        stored = self.store.summaries.add(self.record.id, summary)
        self._view.summaries.append(stored)
        self._pending_events.append(SummaryWritten(stored))

    # --- running -------------------------------------------------------------------------------------------------

    def _write(self, ended: Sequence[Ending]) -> None:
        """Write what came of trials; those that lost their worker through no fault of theirs run once more."""
        for record in self._view.write(ended) if ended else []:
            if record.state not in FINISHED:
                self._pending_events.append(TrialRetried(record))
                if record.id in self._leases:
                    self._to_submit.append(record)

    def _submit(self) -> None:
        """Hand the trials to the workers whose claims are written."""
        for record in self._to_submit:
            self._pool.submit(record.id, record.spec)
        self._to_submit.clear()

    def _claim_waiting(self) -> None:
        """Take over trials that were proposed and not run: by an earlier run, or by a driver that is gone."""
        while self._pool.load < self._capacity:
            lease = self._leases.take_next(self.record.id)
            if lease is None:
                return
            if lease.number >= len(self._view):
                self._refresh()
            record = self._view.records[lease.number]
            if record.outdated:  # claimed, it runs with the present versions
                record = self.store.trials.get(record.id)
                self._view.put(record)
            self._to_submit.append(record)
            self._submit()

    # --- other drivers -------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Read what other drivers did."""
        self._view.refresh()
        self._refreshed = time.monotonic()

    def _look_after_others(self) -> None:
        if self._pool.load < self._capacity and time.monotonic() - self._refreshed >= IDLE_WAIT:
            self._refresh()
            self._claim_waiting()

    # --- ending --------------------------------------------------------------------------------------------------

    def _wind_up(self) -> Iterator[CampaignEvent]:
        """Begin nothing more, let running trials end for a moment, give the rest back."""
        asked = self._stops > 0
        yield PhaseChanged("stopping: waiting for running trials" if asked else "time is up")
        with self.store.batch():
            for trial_id in self._pool.withdraw():
                lease = self._leases.give(trial_id)
                if lease is not None:
                    self.store.queue.release(lease)
        deadline = time.monotonic() + STOP_WAIT
        while self._pool.running and self._stops < 2 and time.monotonic() < deadline:
            ended = self._pool.collect(deadline - time.monotonic())
            with self.store.batch():
                self._write(ended)
        if not self._stops:
            yield from self._conclude()
        self._end_as("interrupted")

    def _conclude(self) -> Iterator[CampaignEvent]:
        """Analyse and summarise all that is known."""
        yield from self._new_events(now=True)
        yield PhaseChanged("the agents write their summary")
        self._analyse(len(self._view), 0)
        self._summarise(len(self._view), 0)

    def _leave(self) -> None:
        if self.state == "running":
            self._end_as("interrupted")

    def _end_as(self, state: CampaignState) -> None:
        self._let_go()
        self.store.campaigns.finish(self.record.id, state)
        self.state = state

    def _let_go(self) -> None:
        with self.store.batch():
            if self._proposing is not None:
                self.store.proposal_lock.release(self._proposing)
            for lease in self._leases.drain():
                self.store.queue.release(lease)
        self._clock.stop()
