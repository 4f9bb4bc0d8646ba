"""What a driver holds in the store while it runs: leases of trials, renewed in the background, and slices of time."""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from typing import TYPE_CHECKING, Self

from swarm.memory.errors import BudgetError, LeaseLostError, StoreError

if TYPE_CHECKING:
    from swarm.memory.records import Lease, Reservation
    from swarm.memory.store import Store

TTL = 20.0
"""Seconds for which a lease is taken."""
RENEWALS_PER_TTL = 4
TIME_SLICE = 10.0
"""Seconds of wall time that are reserved at once."""


def owner_name() -> str:
    """Who this driver is: host, process and a random part, since process numbers come back."""
    return f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class HeldLeases:
    """Leases by trial id. While it is entered, a thread renews them; one that is lost is dropped.

    Args:
        store: where they are.
        ttl: seconds for which a lease is taken; `TTL` by default.
    """

    def __init__(self, store: Store, ttl: float | None = None) -> None:
        self._store = store
        self._ttl = TTL if ttl is None else ttl
        self._held: dict[int, Lease] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
        self.owner = owner_name()

    def __contains__(self, trial_id: object) -> bool:
        return trial_id in self._held

    def claim(self, trial_id: int) -> Lease | None:
        """Get the lease of a trial without holding it; None when somebody else has it."""
        return self._store.queue.claim(trial_id, self.owner, self._ttl)

    def take(self, trial_id: int) -> bool:
        """Hold the lease of a trial; False when somebody else has it."""
        return self._keep(self.claim(trial_id)) is not None

    def take_next(self, campaign_id: int) -> Lease | None:
        """Hold the lease of the earliest trial that waits, or whose driver is gone; None when there is none."""
        return self._keep(self._store.queue.claim_next(campaign_id, self.owner, self._ttl))

    def _keep(self, lease: Lease | None) -> Lease | None:
        if lease is not None:
            with self._lock:
                self._held[lease.trial_id] = lease
        return lease

    def give(self, trial_id: int) -> Lease | None:
        """Take a lease out, to write the result with or to release it; None when it was lost."""
        with self._lock:
            return self._held.pop(trial_id, None)

    def drain(self) -> list[Lease]:
        """Take all leases out."""
        with self._lock:
            held, self._held = list(self._held.values()), {}
        return held

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _renew_all(self) -> None:
        while not self._over.wait(self._ttl / RENEWALS_PER_TTL):
            with self._lock:
                held = list(self._held.values())
            for lease in held:
                if not self._renew(lease):
                    break

    def _renew(self, lease: Lease) -> bool:
        """Renew one lease; whether the store answered."""
        try:
            renewed = self._store.queue.heartbeat(lease)
        except LeaseLostError:
            with self._lock:
                if self._held.get(lease.trial_id) == lease:
                    del self._held[lease.trial_id]
            return True
        except StoreError:
            # Busy or unreachable for now: the leases are good for a while, and the driver meets the error itself.
            return False
        with self._lock:
            if lease.trial_id in self._held:
                self._held[lease.trial_id] = renewed
        return True


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
            return TIME_SLICE
        return min(TIME_SLICE, account.cap - account.spent - account.reserved)
