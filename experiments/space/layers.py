"""Which layers a trial quantizes and which get other bits, as search parameters and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from swarm.experiments.space.sides import UNPACKED_BITS, SideChoices
from swarm.experiments.space.suggest import Params, Trial
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import LayerOverride, QuantSpec

Layers = tuple[int, ...] | None
MAX_PROTECTED = 4
ALIKE, OTHER = "alike", "other"
EDGES = "ends"
"""Name of the search parameter of `EdgeLayers`, which stores hold."""


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


@dataclass(frozen=True)
class EdgeLayers:
    """Other bits for the first and the last layers of a model with `n` layers, next to what its layers are elsewhere.

    The layers at both ends of a model are often the ones that int4 hurts. Here they keep the method of the others at
    another width, or stay in 16 bit on one side, where `Protect` leaves them unquantized altogether.
    """

    key: SideChoices
    value: SideChoices
    n: int

    def suggest(self, trial: Trial, key: QuantSpec, value: QuantSpec) -> tuple[LayerOverride, ...]:
        """Choose how many layers at each end get which bits; nothing where that changes nothing."""
        most = most_protected(self.n)
        if not most or trial.suggest_categorical(EDGES, (ALIKE, OTHER)) == ALIKE:
            return ()
        first, last = (trial.suggest_int(f"{EDGES}.{end}", 0, most) for end in ("first", "last"))
        widths = {
            side.name: trial.suggest_categorical(f"{EDGES}.{side.name}.bits", self.widths)
            for side in (self.key, self.value)
        }
        return self.overrides(first, last, {"key": key, "value": value}, widths)

    def overrides(
        self, first: int, last: int, specs: dict[base.Side, QuantSpec], widths: dict[base.Side, int | None]
    ) -> tuple[LayerOverride, ...]:
        """The override that gives layers at both ends other widths; empty when nothing changes.

        Args:
            first: layers at the beginning.
            last: layers at the end.
            specs: keys and values elsewhere.
            widths: bits at the ends, 16 for 16 bit, None for as elsewhere. A width that the method does not offer
                means the nearest one that it does.

        Raises:
            SpecError: the model has not so many layers at each end.
        """
        if max(first, last) > most_protected(self.n):
            raise SpecError(
                f"{first} first and {last} last layers are too many of {self.n}.",
                f"Choose up to {most_protected(self.n)} at each end.",
            )
        changed = {}
        for side in (self.key, self.value):
            wanted = widths.get(side.name)
            if wanted is not None:
                offered = side.widths(specs[side.name])
                found = offered[min(offered, key=lambda bits: (abs(bits - wanted), -bits))]
                if found != specs[side.name]:
                    changed[side.name] = found
        layers = (*range(first), *range(self.n - last, self.n))
        return (LayerOverride(layers=layers, **changed),) if changed and layers else ()

    def params(self, overrides: tuple[LayerOverride, ...]) -> Params:
        """The parameters for which `suggest` gives these overrides.

        Raises:
            SpecError: there are none.
        """
        most = most_protected(self.n)
        if not overrides:
            return {EDGES: ALIKE} if most else {}
        override = overrides[0]
        first = sum(1 for place, layer in enumerate(override.layers) if place == layer)
        last = len(override.layers) - first
        ends = (*range(first), *range(self.n - last, self.n))
        if len(overrides) > 1 or override.layers != ends or max(first, last) > most:
            raise SpecError(
                f"other bits for layers {override.layers} are outside the search space.",
                f"Choose up to {most} layers at each end.",
            )
        named: Params = {EDGES: OTHER, f"{EDGES}.first": first, f"{EDGES}.last": last}
        for name in ("key", "value"):
            spec: QuantSpec | None = getattr(override, name)
            named[f"{EDGES}.{name}.bits"] = None if spec is None else spec.bits
        return named

    @cached_property
    def widths(self) -> tuple[int | None, ...]:
        """Every width of any method, so that the choice is the same whatever the method is; None: as elsewhere."""
        offered = {bits for method in base.methods().values() for bits in method.choices.bits}
        return (None, *sorted(offered | {UNPACKED_BITS}))


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
