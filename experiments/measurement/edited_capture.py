"""What a model's 16-bit run becomes under edits of its weights: nothing has to be run again, as its function stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.artifacts import Capture
from swarm.experiments.measurement.reference_run import float32_from_file

if TYPE_CHECKING:
    import mlx.nn as nn

Floats = NDArray[np.float32]


class Swaps:
    """Replaced parts of modules, which come back at the end of the block."""

    def __init__(self) -> None:
        self._made: list[tuple[Callable[[Any], None], Any, Any]] = []

    def item(self, module: nn.Module, name: str, new: Any) -> None:
        """Replace an array of a module."""
        self._swap(partial(module.__setitem__, name), module[name], new)

    def attribute(self, module: Any, name: str, new: Any) -> None:
        """Replace an attribute of a module."""
        self._swap(partial(setattr, module, name), getattr(module, name), new)

    def _swap(self, put: Callable[[Any], None], old: Any, new: Any) -> None:
        put(new)
        self._made.append((put, old, new))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for put, old, _ in reversed(self._made):
            put(old)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """For the time of the block everything is as it was."""
        for put, old, _ in reversed(self._made):
            put(old)
        try:
            yield
        finally:
            for put, _, new in self._made:
                put(new)


@dataclass(frozen=True)
class LayerChange:
    """What edits do to a layer: factors of keys and values [H, D], and the attention scale that queries take in."""

    keys: Floats | None = None
    values: Floats | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Changes:
    """The edits of a model in memory: what they replaced, and what they do to each edited layer."""

    swaps: Swaps
    layers: dict[int, LayerChange] = field(default_factory=dict)


class EditedCapture(Capture):
    """The capture of a 16-bit run as the edited model would have left it.

    Keys and values are multiplied by the layers' factors and rounded to 16 bit again, queries divided.

    Args:
        plain: the capture of the model as it is.
        layers: the edited layers.
        kept: numbers of the layers that the capture holds, in order.
    """

    def __init__(self, plain: Capture, layers: Mapping[int, LayerChange], kept: Sequence[int]) -> None:
        scales = list(plain.facts["scales"])
        for at, layer in enumerate(kept):
            if layer in layers and layers[layer].scale is not None:
                scales[at] = 1.0
        super().__init__(plain.path, {**plain.facts, "scales": scales}, plain.names)
        self._plain = plain
        self._changed = {at: layers[layer] for at, layer in enumerate(kept) if layer in layers}
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        change = {"keys": _keys, "tail_keys": _keys, "values": _values, "tail_values": _values, "queries": _queries}
        whole, _, number = name.partition(".")
        if whole not in change:
            return self._plain[name]
        if name not in self._made:
            array = self._plain[name]
            if number:
                found = self._changed.get(int(number))
                self._made[name] = array if found is None else change[whole](array, found)
            else:
                layers = np.array(array)
                for at, found in self._changed.items():
                    layers[at] = change[whole](array[at], found)
                self._made[name] = layers
        return self._made[name]


def _keys(keys: NDArray[Any], change: LayerChange) -> NDArray[Any]:
    return _multiplied(keys, change.keys)


def _values(values: NDArray[Any], change: LayerChange) -> NDArray[Any]:
    return _multiplied(values, change.values)


def _queries(queries: NDArray[Any], change: LayerChange) -> NDArray[Any]:
    """Queries [W, Hq, P, D] divided by the factors of the keys that they meet, times a folded scale."""
    found = queries * np.float32(1.0 if change.scale is None else change.scale)
    if change.keys is not None:
        found /= np.repeat(change.keys, queries.shape[1] // len(change.keys), axis=0)[:, None]
    return found


def _multiplied(x: NDArray[Any], factors: Floats | None) -> NDArray[Any]:
    """Vectors [W, H, T, D] as files hold them, times factors [H, D]."""
    if factors is None:
        return x
    wide = float32_from_file(x) * factors[:, None]
    if x.dtype != np.uint16:
        return wide.astype(x.dtype)
    import mlx.core as mx

    return np.array(mx.array(wide).astype(mx.bfloat16).view(mx.uint16))
