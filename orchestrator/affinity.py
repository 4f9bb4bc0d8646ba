"""Which waiting trial a free worker takes: one of the model it holds, unless another has been passed over too often."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.experiments.spec import TrialSpec

MAX_PASSED_OVER = 8


class AffinityQueue:
    """Waiting trials in order of arrival.

    The oldest one is passed over at most `max_passed_over` times: switching models costs a worker seconds, but the
    proposals behind a trial wait for its result.
    """

    def __init__(self, max_passed_over: int = MAX_PASSED_OVER) -> None:
        self._max_passed_over = max_passed_over
        self._waiting: OrderedDict[int, TrialSpec] = OrderedDict()
        self._needs: dict[int, str] = {}
        self._passed_over = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, trial_id: int, spec: TrialSpec, needs: str = "") -> None:
        """Append a trial; `needs` names what it shares with others."""
        self._waiting[trial_id] = spec
        self._needs[trial_id] = needs

    def take(
        self,
        resident: str | None,
        elsewhere: frozenset[str] = frozenset(),
        in_the_making: frozenset[str] = frozenset(),
    ) -> tuple[int, TrialSpec] | None:
        """The trial for a worker that holds model `resident`; None when nothing waits that could run.

        Args:
            resident: model in the worker's memory, None for none.
            elsewhere: models that other workers hold; left to them by a worker that has to switch anyway.
            in_the_making: what other workers make now; trials that need it are left in the queue.
        """
        ready = {i: spec for i, spec in self._waiting.items() if self._needs[i] not in in_the_making}
        if not ready:
            return None
        chosen = oldest = next(iter(ready))
        if self._passed_over < self._max_passed_over:
            suits = [trial_id for trial_id, spec in ready.items() if spec.model == resident]
            free = [trial_id for trial_id, spec in ready.items() if spec.model not in elsewhere]
            chosen = (suits or free or [oldest])[0]
        self._passed_over = 0 if chosen == oldest else self._passed_over + 1
        del self._needs[chosen]
        return chosen, self._waiting.pop(chosen)

    def drain(self) -> list[int]:
        """Take everything; the ids, oldest first."""
        trial_ids = list(self._waiting)
        self._waiting.clear()
        self._needs.clear()
        return trial_ids
