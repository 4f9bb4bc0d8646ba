"""Follows a campaign through its store: what is proposed, ends, is found, judged and spent, whoever drives it.

Knows the store, the board and that there are views; knows no terminal.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from swarm.agents.history import FINISHED
from swarm.orchestrator.console import duration
from swarm.orchestrator.monitor import progress
from swarm.orchestrator.monitor.board import Board

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store
    from swarm.orchestrator.monitor.progress import View
    from swarm.orchestrator.stop import Stop

QUIET = 45.0
"""Seconds without any change after which a driver that is said to run may be gone."""


class Watch:
    """Brings a board up to date.

    Args:
        store: where the campaign is; only read.
        campaign_id: which campaign.
        board: what is to be kept up to date.
    """

    def __init__(self, store: Store, campaign_id: int, board: Board) -> None:
        self.board = board
        self._store = store
        self._campaign_id = campaign_id
        self._last = -1
        self._open: set[int] = set()
        self._event = 0
        self._changed = time.monotonic()

    def begin(self) -> None:
        """Take note of all that is there, without calling it news."""
        for record in self._store.trials.list(self._campaign_id, arrays=False):
            self._note(record.number, record.id, record.state)
            self.board.restore(record)
        for known in self._store.findings.list(self._campaign_id):
            self.board.findings[known.finding.key] = known.finding
        latest = self._store.events.list(self._campaign_id, limit=1, newest=True)
        self._event = latest[-1].id if latest else 0
        self._spend()

    def look(self) -> None:
        """Tell the board what is new."""
        before = (self._last, len(self._open), self._event)
        fresh = self._store.trials.list(self._campaign_id, after=self._last, arrays=False)
        waited = self._store.trials.list(ids=sorted(self._open), arrays=False) if self._open else []
        for record in (*waited, *fresh):
            self._note(record.number, record.id, record.state)
            self.board.put(record)
        events = self._store.events.list(self._campaign_id, after=self._event)
        if any(event.kind.startswith("finding.") for event in events):
            for known in self._store.findings.list(self._campaign_id):
                self.board.find(known.finding)
        if any(event.kind.startswith("prediction.") for event in events):
            for scored in self._store.predictions.list(self._campaign_id):
                self.board.score(scored)
        self._event = max([self._event, *(event.id for event in events)])
        self._spend()
        if (self._last, len(self._open), self._event) != before:
            self._changed = time.monotonic()

    @property
    def quiet(self) -> float:
        """Seconds since anything changed."""
        return time.monotonic() - self._changed

    def _note(self, number: int, trial_id: int, state: str) -> None:
        self._last = max(self._last, number)
        if state in FINISHED:
            self._open.discard(trial_id)
        else:
            self._open.add(trial_id)

    def _spend(self) -> None:
        self.board.spend = self._store.ledger.totals(self._campaign_id)


def following(store: Store, campaign: CampaignRecord) -> View:
    """The view of a campaign that is about to be driven here."""
    return _view(store, campaign, time.time())[1]


def follow(store: Store, campaign: CampaignRecord, stop: Stop) -> None:
    """Show a campaign that another process drives, until it is over or a stop is requested; it does not notice."""
    spent = store.ledger.totals(campaign.id)["seconds"].spent
    watch, view = _view(store, campaign, time.time() - spent)
    over = threading.Event()
    stop.defer(over.set)
    with view as shown:
        while not over.wait(progress.LOOK_EVERY) and store.campaigns.get(campaign.id).state == "running":
            shown.tick()
            silent = watch.quiet > QUIET
            shown.phase(f"nothing new for {duration(watch.quiet)}: is it still driven?" if silent else "")
        watch.look()
        shown.tick()


def _view(store: Store, campaign: CampaignRecord, began: float) -> tuple[Watch, View]:
    models = tuple(campaign.settings.get("models") or ())
    board = Board(total=campaign.budget.trials, models=models, name=campaign.name, began=began)
    watch = Watch(store, campaign.id, board)
    watch.begin()
    return watch, progress.view(board, watch.look)
