"""Which layers a trial quantizes and which get other bits, as search parameters and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class Scope:
    """A family of contiguous layers of a model with `n` layers, chosen by whole numbers that are search parameters.

    Attributes:
        name: what the family is called in search parameters.
        ranges: least and greatest value of each number, for `n`, in the order in which they are chosen.
        span: the first layer that some numbers mean and the one behind the last, for `n` and the numbers.
        numbers: the numbers that mean layers, if any do, for `n`, the first layer and the one behind the last.
    """

    name: str
    ranges: Callable[[int], dict[str, tuple[int, int]]]
    span: Callable[..., tuple[int, int]]
    numbers: Callable[[int, int, int], tuple[int, ...]]

    def suggest(self, trial: Trial, prefix: str, n: int) -> Layers:
        """Choose layers; None means all. Names of parameters begin with `prefix`."""
        chosen = [trial.suggest_int(prefix + name, *limits) for name, limits in self.ranges(n).items()]
        start, stop = self.span(n, *chosen)
        return None if (start, stop) == (0, n) else tuple(range(start, stop))

    def params(self, layers: Layers, prefix: str, n: int) -> dict[str, int] | None:
        """The parameters for which `suggest` gives these layers; None if there are none."""
        start, stop = (0, n) if layers is None else (layers[0], layers[-1] + 1)
        if stop > n or (layers is not None and len(layers) != stop - start):
            return None
        named = dict(zip(self.ranges(n), self.numbers(n, start, stop), strict=True))
        within = all(low <= named[name] <= high for name, (low, high) in self.ranges(n).items())
        if not within or self.span(n, *named.values()) != (start, stop):
            return None
        return {prefix + name: number for name, number in named.items()}


ALL = Scope("all", lambda _: {}, lambda n: (0, n), lambda *_: ())
"""The whole model."""
PROTECT = Scope(
    "protect",
    lambda n: dict.fromkeys(("first", "last"), (0, most_protected(n))),
    lambda n, first, last: (first, n - last),
    lambda n, start, stop: (start, n - stop),
)
"""All but a few of the first and of the last layers, which stay in 16 bit."""
BAND = Scope(
    "band",
    lambda n: {"start": (0, n - 1), "length": (1, n)},
    lambda n, start, length: (start, min(start + length, n)),
    lambda _, start, stop: (start, stop - start),
)
"""Layers from a start on, as many as there are."""
SINGLE = Scope(
    "single", lambda n: {"layer": (0, n - 1)}, lambda _, layer: (layer, layer + 1), lambda _, start, _stop: (start,)
)
"""One layer alone."""
UPTO = Scope("upto", lambda n: {"last": (0, n - 1)}, lambda _, last: (0, last + 1), lambda _, _start, stop: (stop - 1,))
"""The first layers up to and with one."""


@dataclass(frozen=True)
class EdgeLayers:
    """Other bits for the first and the last layers of a model with `n` layers, next to what its layers are elsewhere.

    The layers at both ends of a model are often the ones that int4 hurts. Here they keep the method of the others at
    another width, or stay in 16 bit on one side, where `PROTECT` leaves them unquantized altogether.
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
