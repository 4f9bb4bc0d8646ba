"""Models in memory: loaded when first asked for, the least recently used go when they grow too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.experiments.models.base import LoadedModel


class Shelf:
    """Keeps models within a number of bytes; the one asked for last always stays.

    Args:
        load: loads a model by name.
        limit: bytes of weights to keep.
    """

    def __init__(self, load: Callable[[str], LoadedModel], limit: int) -> None:
        self.limit = limit
        self._load = load
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._bytes: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The models in memory, the least recently used first."""
        return tuple(self._models)

    def get(self, name: str) -> LoadedModel:
        """The model, from memory or loaded now."""
        if name not in self._models:
            # A size is known once a model was here before: then room is made first, and the peak stays low.
            self._make_room(self._bytes.get(name, 0))
            loaded = self._load(name)
            self._models[name], self._bytes[name] = loaded, weight_bytes(loaded)
        self._models.move_to_end(name)
        self._make_room(0)
        return self._models[name]

    def _make_room(self, wanted: int) -> None:
        import mlx.core as mx

        kept = 0 if wanted else 1
        while len(self._models) > kept and wanted + sum(self._bytes[name] for name in self._models) > self.limit:
            self._models.popitem(last=False)
            mx.clear_cache()


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes of the parameters of a model."""
    from mlx.utils import tree_flatten

    return sum(array.nbytes for _, array in tree_flatten(loaded.model.parameters()))
