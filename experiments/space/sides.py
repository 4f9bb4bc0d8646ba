"""What keys or values can be: every valid specification of every method, as search parameters and back.

A new method file appears by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from swarm.experiments.space.suggest import Params, Trial
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec, specs

FIELDS = ("bits", "group_size", "axis", "rotation", "scaling")
UNPACKED_BITS = 16


@dataclass(frozen=True)
class SideChoices:
    """What one side (keys or values) of a model can be.

    Attributes:
        name: the side.
        dims: the sizes of its vectors; a specification is valid if it fits all of them.
        learned: whether learned scaling is offered.
    """

    name: base.Side
    dims: tuple[int, ...]
    learned: bool = True

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Methods with at least one valid specification, `none` included."""
        return tuple(name for name, m in base.methods().items() if self.name in m.choices.sides and self.specs(name))

    def specs(self, method: str) -> tuple[QuantSpec, ...]:
        """Every valid specification of a method, the default first."""
        return _specs(method, self.dims, self.learned)

    def default(self, method: str, **wanted: Any) -> QuantSpec | None:
        """The first valid specification of a method with the wanted fields; None if there is none."""
        return next((s for s in self.specs(method) if all(getattr(s, k) == v for k, v in wanted.items())), None)

    def widths(self, spec: QuantSpec) -> dict[int, QuantSpec]:
        """The specification at every width that its method offers, all else equal, and 16 bit."""
        found = {other.bits: other for other in self.specs(spec.method) if _all_but_bits(other) == _all_but_bits(spec)}
        return {bits: other for bits, other in found.items() if bits is not None} | {UNPACKED_BITS: QuantSpec()}

    def suggest(self, trial: Trial) -> QuantSpec:
        """Choose a method, then its fields."""
        method = trial.suggest_categorical(f"{self.name}.method", self.methods)
        left = self.specs(method)
        for field in FIELDS:
            values = _values(self.specs(method), field)
            if len(values) == 1:
                continue
            value = trial.suggest_categorical(f"{self.name}.{method}.{field}", values)
            # A value that the earlier fields exclude falls back to the first that they allow.
            left = tuple(s for s in left if getattr(s, field) == value) or _first(left, field)
        return left[0]

    def params(self, spec: QuantSpec) -> Params:
        """The parameters for which `suggest` gives this specification.

        Raises:
            SpecError: there are none.
        """
        if spec.method not in self.methods or spec not in self.specs(spec.method):
            raise SpecError(f"{spec.label} for {self.name}s is outside the search space.", "See `swarm methods`.")
        named: Params = {f"{self.name}.method": spec.method}
        for field in FIELDS:
            if len(_values(self.specs(spec.method), field)) > 1:
                named[f"{self.name}.{spec.method}.{field}"] = getattr(spec, field)
        return named


@cache
def side(name: base.Side, *dims: int, learned: bool = True) -> SideChoices:
    """The keys or values of a model, made once per set of sizes."""
    return SideChoices(name, dims, learned)


@cache
def _specs(method: str, dims: tuple[int, ...], learned: bool) -> tuple[QuantSpec, ...]:
    """Every specification of a method that fits vectors of these sizes, in the order of its choices."""
    others = [set(specs(method, dim)) for dim in dims[1:]]
    found = [spec for spec in specs(method, dims[0]) if all(spec in other for other in others)]
    # Every specification is fitted on its own, which costs a second: the search learns one shape per method.
    return tuple(s for s in found if s.scaling == "fixed" or (learned and _shape(s) == _shape(found[0])))


def _shape(spec: QuantSpec) -> tuple[Any, ...]:
    return spec.group_size, spec.axis, spec.rotation


def _all_but_bits(spec: QuantSpec) -> QuantSpec:
    return spec.model_copy(update={"bits": None})


def _values(specs: Sequence[QuantSpec], field: str) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(getattr(spec, field) for spec in specs))


def _first(specs: tuple[QuantSpec, ...], field: str) -> tuple[QuantSpec, ...]:
    value = getattr(specs[0], field)
    return tuple(spec for spec in specs if getattr(spec, field) == value)
