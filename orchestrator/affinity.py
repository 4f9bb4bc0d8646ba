"""Which waiting trial a free worker takes: one of the model it holds, unless another has waited its turn out.

Pure data structure: knows no Ray and no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 8


@dataclass
class AffinityQueue(Generic[T]):
    """Waiting items in order of arrival, each with the model it needs.

    The oldest item is passed over at most `patience` times: switching models costs a worker seconds, but the
    proposals behind a trial wait for its result.
    """

    patience: int = PATIENCE
    _items: OrderedDict[int, tuple[str, T]] = field(default_factory=OrderedDict)
    _passed: int = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, key: int, model: str, item: T) -> None:
        """Append an item under a unique key."""
        self._items[key] = (model, item)

    def take(self, resident: str | None, elsewhere: frozenset[str] = frozenset()) -> T | None:
        """The item for a worker that holds model `resident`; None when nothing waits.

        Args:
            resident: model in the worker's memory, None for none.
            elsewhere: models that other workers hold; left to them by a worker that has to switch anyway.
        """
        if not self._items:
            return None
        oldest = next(iter(self._items))
        chosen = oldest
        if self._passed < self.patience:
            models = {key: model for key, (model, _) in self._items.items()}
            suits = [key for key, model in models.items() if model == resident]
            free = [key for key, model in models.items() if model not in elsewhere]
            chosen = (suits or free or [oldest])[0]
        self._passed = 0 if chosen == oldest else self._passed + 1
        return self._items.pop(chosen)[1]

    def drain(self) -> list[T]:
        """Take everything, oldest first."""
        items = [item for _, item in self._items.values()]
        self._items.clear()
        return items
