"""The leases that this driver holds, renewed in the background. Knows the store's claims, not the trials."""

from __future__ import annotations

import os
import platform
import threading
import uuid
from typing import TYPE_CHECKING, Self

from swarm.kernels.errors import LeaseLostError, StoreError

if TYPE_CHECKING:
    from swarm.memory.records import Lease
    from swarm.memory.store import Store

TTL = 20.0
RENEWALS_PER_TTL = 4


def owner_name() -> str:
    """Who this driver is: host, process and a random part, since process numbers come back."""
    return f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Leases:
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

    @property
    def ttl(self) -> float:
        """Seconds for which a lease is taken."""
        return self._ttl

    def __contains__(self, trial_id: object) -> bool:
        return trial_id in self._held

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, lease: Lease) -> None:
        """Hold and renew a lease."""
        with self._lock:
            self._held[lease.trial_id] = lease

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
            renewed = self._store.trials.heartbeat(lease)
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
