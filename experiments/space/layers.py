"""Which layers a trial quantizes, as search parameters and back. Knows layer numbers, no models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from swarm.experiments.space.suggest import Trial

Layers = tuple[int, ...] | None
MAX_PROTECTED = 4


class Scope(ABC):
    """A family of layer sets of a model with `n` layers; parameters carry `prefix`."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def suggest(cls, trial: Trial, prefix: str, n: int) -> Layers:
        """Choose layers; None means all."""

    @classmethod
    @abstractmethod
    def params(cls, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:
        """The parameters for which `suggest` gives these layers; None if there are none."""


class All(Scope):
    """The whole model."""

    name = "all"

    @classmethod
    def suggest(cls, trial: Trial, prefix: str, n: int) -> Layers:  # noqa: ARG003
        """None."""
        return None

    @classmethod
    def params(cls, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:  # noqa: ARG003
        """Nothing to say, if these are all."""
        return {} if _range(layers, n) == (0, n) else None


class Protect(Scope):
    """All but a few of the first and of the last layers, which stay in 16 bit."""

    name = "protect"

    @classmethod
    def suggest(cls, trial: Trial, prefix: str, n: int) -> Layers:
        """All but `first` and `last` layers."""
        most = most_protected(n)
        first = trial.suggest_int(f"{prefix}first", 0, most)
        last = trial.suggest_int(f"{prefix}last", 0, most)
        return _layers(first, n - last, n)

    @classmethod
    def params(cls, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:
        """How many layers at each end are left out."""
        found = _range(layers, n)
        if found is None or max(found[0], n - found[1]) > most_protected(n):
            return None
        return {f"{prefix}first": found[0], f"{prefix}last": n - found[1]}


class Band(Scope):
    """Layers from a start on, as many as there are."""

    name = "band"

    @classmethod
    def suggest(cls, trial: Trial, prefix: str, n: int) -> Layers:
        """`length` layers from `start` on, cut at the last."""
        start = trial.suggest_int(f"{prefix}start", 0, n - 1)
        length = trial.suggest_int(f"{prefix}length", 1, n)
        return _layers(start, min(start + length, n), n)

    @classmethod
    def params(cls, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:
        """Start and length."""
        found = _range(layers, n)
        return None if found is None else {f"{prefix}start": found[0], f"{prefix}length": found[1] - found[0]}


class Single(Scope):
    """One layer alone."""

    name = "single"

    @classmethod
    def suggest(cls, trial: Trial, prefix: str, n: int) -> Layers:
        """The one layer."""
        layer = trial.suggest_int(f"{prefix}layer", 0, n - 1)
        return _layers(layer, layer + 1, n)

    @classmethod
    def params(cls, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:
        """Its number."""
        found = _range(layers, n)
        return {f"{prefix}layer": found[0]} if found is not None and found[1] - found[0] == 1 else None


class Upto(Scope):
    """The first layers up to and with one."""

    name = "upto"

    @classmethod
    def suggest(cls, trial: Trial, prefix: str, n: int) -> Layers:
        """Layers 0 to `last`."""
        return _layers(0, trial.suggest_int(f"{prefix}last", 0, n - 1) + 1, n)

    @classmethod
    def params(cls, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:
        """The last."""
        found = _range(layers, n)
        return {f"{prefix}last": found[1] - 1} if found is not None and found[0] == 0 else None


def most_protected(n: int) -> int:
    """How many layers each end may have: at least one layer is left between the ends."""
    return min(MAX_PROTECTED, (n - 1) // 2)


def _layers(start: int, stop: int, n: int) -> Layers:
    return None if (start, stop) == (0, n) else tuple(range(start, stop))


def _range(layers: Layers, n: int) -> tuple[int, int] | None:
    """Start and stop of contiguous layers; None for layers with gaps."""
    if layers is None:
        return 0, n
    contiguous = layers[-1] - layers[0] + 1 == len(layers) and layers[-1] < n
    return (layers[0], layers[-1] + 1) if contiguous else None
