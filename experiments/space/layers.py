"""Which layers a trial quantizes and which get other bits, as search parameters and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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
KINDS = "kinds"
"""Name of the search parameter of `KindLayers`, which stores hold."""


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
    """Other bits for the first and the last of a model's layers, next to what they are elsewhere.

    The layers at both ends of a model are often the ones that int4 hurts. Here they keep the method of the others at
    another width, or stay in 16 bit on one side, where `PROTECT` leaves them unquantized altogether.

    Attributes:
        key: what keys can be.
        value: what values can be.
        layers: numbers of the layers that keep keys and values.
    """

    key: SideChoices
    value: SideChoices
    layers: tuple[int, ...]

    def suggest(self, trial: Trial, key: QuantSpec, value: QuantSpec) -> tuple[LayerOverride, ...]:
        """Choose how many layers at each end get which bits; nothing where that changes nothing."""
        most = most_protected(len(self.layers))
        if not most or trial.suggest_categorical(EDGES, (ALIKE, OTHER)) == ALIKE:
            return ()
        first, last = (trial.suggest_int(f"{EDGES}.{end}", 0, most) for end in ("first", "last"))
        return self.overrides(
            first, last, {"key": key, "value": value}, suggest_widths(trial, EDGES, (self.key, self.value))
        )

    def overrides(
        self, first: int, last: int, specs: dict[base.Side, QuantSpec], widths: dict[base.Side, int | None]
    ) -> tuple[LayerOverride, ...]:
        """The override that gives layers at both ends other widths; empty when nothing changes.

        Args:
            first: layers at the beginning.
            last: layers at the end.
            specs: keys and values elsewhere.
            widths: see `with_widths`.

        Raises:
            SpecError: the model has not so many layers at each end.
        """
        n = len(self.layers)
        if max(first, last) > most_protected(n):
            raise SpecError(
                f"{first} first and {last} last layers are too many of {n}.",
                f"Choose up to {most_protected(n)} at each end.",
            )
        return with_widths((*self.layers[:first], *self.layers[n - last :]), (self.key, self.value), specs, widths)

    def params(self, overrides: tuple[LayerOverride, ...]) -> Params:
        """The parameters for which `suggest` gives these overrides.

        Raises:
            SpecError: there are none.
        """
        n = len(self.layers)
        most = most_protected(n)
        if not overrides:
            return {EDGES: ALIKE} if most else {}
        override = overrides[0]
        first = sum(1 for place, layer in zip(self.layers, override.layers, strict=False) if place == layer)
        last = len(override.layers) - first
        ends = (*self.layers[:first], *self.layers[n - last :])
        if len(overrides) > 1 or override.layers != ends or max(first, last) > most:
            raise SpecError(
                f"other bits for layers {override.layers} are outside the search space.",
                f"Choose up to {most} layers at each end.",
            )
        return {EDGES: OTHER, f"{EDGES}.first": first, f"{EDGES}.last": last, **_widths_of(EDGES, override)}


@dataclass(frozen=True)
class KindLayers:
    """Other bits for all layers of one kind (global, windowed, latent), in a model that has several.

    Attributes:
        key: what keys can be.
        value: what values can be.
        kinds: numbers of the layers of each kind.
    """

    key: SideChoices
    value: SideChoices
    kinds: Mapping[str, tuple[int, ...]]

    def suggest(self, trial: Trial, key: QuantSpec, value: QuantSpec) -> tuple[LayerOverride, ...]:
        """Choose a kind and its bits; nothing where that changes nothing, or all layers are of one kind."""
        if len(self.kinds) < 2:
            return ()
        kind = trial.suggest_categorical(KINDS, (ALIKE, *self.kinds))
        if kind == ALIKE:
            return ()
        sides = (self.key, self.value)
        widths = suggest_widths(trial, KINDS, sides)
        return with_widths(self.kinds[kind], sides, {"key": key, "value": value}, widths)

    def params(self, overrides: tuple[LayerOverride, ...]) -> Params | None:
        """The parameters for which `suggest` gives these overrides; None if there are none."""
        if len(self.kinds) < 2:
            return {} if not overrides else None
        if not overrides:
            return {KINDS: ALIKE}
        kind = next((kind for kind, layers in self.kinds.items() if layers == overrides[0].layers), None)
        return None if kind is None or len(overrides) > 1 else {KINDS: kind, **_widths_of(KINDS, overrides[0])}


def suggest_widths(trial: Trial, prefix: str, sides: Iterable[SideChoices]) -> dict[base.Side, int | None]:
    """Choose bits for keys and for values."""
    return {side.name: trial.suggest_categorical(f"{prefix}.{side.name}.bits", all_widths()) for side in sides}


def all_widths() -> tuple[int | None, ...]:
    """Every width of any method, so that the choice is the same whatever the method is; None: as elsewhere."""
    offered = {bits for method in base.methods().values() for bits in method.choices.bits}
    return (None, *sorted(offered | {UNPACKED_BITS}))


def with_widths(
    layers: tuple[int, ...],
    sides: Iterable[SideChoices],
    specs: Mapping[base.Side, QuantSpec],
    widths: Mapping[base.Side, int | None],
) -> tuple[LayerOverride, ...]:
    """The override that gives some layers the methods of the others at other widths; empty when nothing changes.

    Args:
        layers: their numbers.
        sides: what keys and values can be.
        specs: keys and values elsewhere.
        widths: bits of these layers, 16 for 16 bit, None for as elsewhere. A width that the method does not offer
            means the nearest one that it does.
    """
    changed = {}
    for side in sides:
        wanted = widths.get(side.name)
        if wanted is not None:
            offered = side.widths(specs[side.name])
            found = offered[min(offered, key=lambda bits: (abs(bits - wanted), -bits))]
            if found != specs[side.name]:
                changed[side.name] = found
    return (LayerOverride(layers=layers, **changed),) if changed and layers else ()


def _widths_of(prefix: str, override: LayerOverride) -> Params:
    sides = (("key", override.key), ("value", override.value))
    return {f"{prefix}.{name}.bits": None if spec is None else spec.bits for name, spec in sides}


def most_protected(n: int) -> int:
    """How many layers each end may have: at least one layer is left between the ends."""
    return max(0, min(MAX_PROTECTED, (n - 1) // 2))
