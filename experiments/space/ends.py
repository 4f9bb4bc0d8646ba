"""Other bits for the first and the last layers, as search parameters and back. Knows layer numbers, no models.

The layers at both ends of a model are often the ones that int4 hurts. Here they keep the method of the others at
another width, or stay in 16 bit on one side, where `scopes.Protect` leaves them unquantized altogether.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from swarm.experiments.space.layers import most_protected
from swarm.experiments.space.sides import UNPACKED, Side
from swarm.experiments.space.suggest import Params, Trial
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import LayerOverride, QuantSpec

ALIKE, OTHER = "alike", "other"
NAME = "ends"


@dataclass(frozen=True)
class Ends:
    """What the ends of a model with `n` layers may be, next to what its keys and values are elsewhere."""

    key: Side
    value: Side
    n: int

    def suggest(self, trial: Trial, key: QuantSpec, value: QuantSpec) -> tuple[LayerOverride, ...]:
        """Choose how many layers at each end get which bits; nothing where that changes nothing."""
        most = most_protected(self.n)
        if not most or trial.suggest_categorical(NAME, (ALIKE, OTHER)) == ALIKE:
            return ()
        first, last = (trial.suggest_int(f"{NAME}.{end}", 0, most) for end in ("first", "last"))
        widths = {
            side.name: trial.suggest_categorical(f"{NAME}.{side.name}.bits", self.widths)
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
            return {NAME: ALIKE} if most else {}
        override = overrides[0]
        first = sum(1 for place, layer in enumerate(override.layers) if place == layer)
        last = len(override.layers) - first
        ends = (*range(first), *range(self.n - last, self.n))
        if len(overrides) > 1 or override.layers != ends or max(first, last) > most:
            raise SpecError(
                f"other bits for layers {override.layers} are outside the search space.",
                f"Choose up to {most} layers at each end.",
            )
        named: Params = {NAME: OTHER, f"{NAME}.first": first, f"{NAME}.last": last}
        for name in ("key", "value"):
            spec: QuantSpec | None = getattr(override, name)
            named[f"{NAME}.{name}.bits"] = None if spec is None else spec.bits
        return named

    @cached_property
    def widths(self) -> tuple[int | None, ...]:
        """Every width of any method, so that the choice is the same whatever the method is; None: as elsewhere."""
        offered = {bits for method in base.methods().values() for bits in method.choices.bits}
        return (None, *sorted(offered | {UNPACKED}))
