"""What caches keep of their last call: for layers that read the keys and values of another one, and for arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import StoredView


class KeepsLastView:
    """A cache, of one sequence or of several, that keeps the view of its last call."""

    layer: int
    _view: StoredView | None = None

    def keys_and_values(self) -> tuple[Any, ...]:
        """What the last call of `update_and_fetch` returned, for layers that read the keys and values of this one.

        Raises:
            UsageError: there was none.
        """
        view = self._last()
        return view, view

    @property
    def keys(self) -> Array:
        """Keys of the last call, for models that make later work wait for a cache or a cache wait for other work."""
        return self._last().fresh[0]

    @keys.setter
    def keys(self, after: Array) -> None:
        import mlx.core as mx

        mx.async_eval(after)  # type: ignore[no-untyped-call]

    def _last(self) -> StoredView:
        if self._view is None:
            raise UsageError(f"Layer {self.layer} holds nothing that another layer could read.", "Run its layer first.")
        return self._view


class HandsOutArrays(KeepsLastView, ABC):
    """A cache of a layer whose model reads keys and values as arrays, at least for several tokens at a time."""

    _handed: tuple[Array, ...] = ()

    def keys_and_values(self) -> tuple[Array, ...]:
        """What the last call of `update_and_fetch` returned.

        Raises:
            UsageError: there was none.
        """
        self._last()
        return self._handed

    def view_of(self, keys: Any, values: Any) -> StoredView | None:
        """The view behind the arrays handed out last, if these are they; one array as keys and values is a latent."""
        if self._view is None or not self._handed or keys is not self._handed[0]:
            return None
        if values is self._handed[1]:
            return self._view
        return self.latent_view() if values is keys else None

    @abstractmethod
    def latent_view(self) -> StoredView:
        """The view of the last call that reads its keys as values too."""
