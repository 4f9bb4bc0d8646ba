"""The campaign's wall time in the ledger: reserved slice by slice before it passes, settled after."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from swarm.kernels.errors import BudgetError

if TYPE_CHECKING:
    from swarm.memory.records import Reservation
    from swarm.memory.store import Store

SLICE = 10.0


class WallClock:
    """Counts the seconds that a driver spends on a campaign, over all its runs."""

    def __init__(self, store: Store, campaign_id: int) -> None:
        self._store = store
        self._campaign_id = campaign_id
        self._reservation: Reservation | None = None
        self._since = time.monotonic()

    def tick(self) -> bool:
        """Account for the time so far; False when the time limit is reached."""
        held = self._reservation
        passed = time.monotonic() - self._since
        if held is not None and passed < held.amount:
            return True
        self.stop()
        self._since = time.monotonic()
        amount = self._left()
        if amount <= 0:
            return False
        try:
            self._reservation = self._store.ledger.reserve(self._campaign_id, "seconds", amount)
        except BudgetError:  # another driver took the rest
            return False
        return True

    def stop(self) -> None:
        """Settle what has passed."""
        held, self._reservation = self._reservation, None
        if held is not None:
            self._store.ledger.settle(held, min(held.amount, time.monotonic() - self._since))

    def _left(self) -> float:
        account = self._store.ledger.totals(self._campaign_id)["seconds"]
        if account.cap is None:
            return SLICE
        return min(SLICE, account.cap - account.spent - account.reserved)
