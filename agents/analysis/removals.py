"""How trials do without something that may cause errors: with other weights, another cache, or bits moved elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarm.agents.analysis import moved_bits
from swarm.experiments.edits import WeightEdit
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec

Layers = tuple[int, ...] | None
"""Some layers of a model; None for all."""


@dataclass(frozen=True)
class EditedWeights:
    """An edit of the weights removes it and leaves the 16-bit function as it is; in all layers or in some."""

    edit: WeightEdit

    @property
    def words(self) -> str:
        """How trials do without it."""
        return f"without them (weights edited: {self.edit.label})"

    def edits(self, layers: Layers = None) -> tuple[WeightEdit, ...]:
        """The edit in some layers."""
        return (self.edit.model_copy(update={"layers": layers}),)

    def without(self, spec: TrialSpec, layers: Layers = None) -> TrialSpec:
        """The trial under the edit."""
        return spec.model_copy(update={"edits": self.edits(layers)})

    def pair(self, spec: TrialSpec, layers: Layers, least: tuple[int, ...]) -> tuple[TrialSpec, TrialSpec]:  # noqa: ARG002
        """A trial without it in some layers and the same with it, both with the cache of these layers alone."""
        there = _with_cache(spec, spec.kv.on(layers))
        return self.without(there, layers), there

    def base(self, spec: TrialSpec) -> TrialSpec | None:
        """What a trial without it is to be compared with; None for a trial that is not without it."""
        is_without = bool(spec.edits) and spec.edits == self.edits(spec.edits[0].layers)
        return spec.model_copy(update={"edits": ()}) if is_without else None

    def layers(self, spec: TrialSpec) -> Layers:
        """The layers that a trial is without it in."""
        return spec.edits[0].layers


@dataclass(frozen=True)
class ChangedCache:
    """Other settings of the cache take it out of play in all layers, where no edit of weights can."""

    settings: Mapping[str, Any]

    @property
    def words(self) -> str:
        """How trials do without it."""
        changed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.settings.items())
        return f"without them ({changed})"

    def pair(self, spec: TrialSpec, layers: Layers, least: tuple[int, ...]) -> tuple[TrialSpec, TrialSpec]:  # noqa: ARG002
        """A trial without it and the same with it, both with the cache of some layers alone."""
        there = _with_cache(spec, spec.kv.on(layers))
        return _with_cache(there, there.kv.model_copy(update=self.settings)), there

    def base(self, spec: TrialSpec) -> TrialSpec | None:
        """What a trial without it is to be compared with; None for a trial that is not without it."""
        defaults = {name: KVSpec.model_fields[name].default for name in self.settings}
        plain = spec.kv.model_copy(update=defaults)
        is_without = not spec.edits and spec.kv != plain and spec.kv == plain.model_copy(update=self.settings)
        return _with_cache(spec, plain) if is_without and is_simple(plain) else None

    def layers(self, spec: TrialSpec) -> Layers:  # noqa: ARG002
        """The layers that a trial is without it in: all."""
        return None


@dataclass(frozen=True)
class MovedBit:
    """A bit of the keys goes to the layers with most of it from as many with least, where nothing else can help."""

    words = "with a bit of the keys moved there from as many layers where they are small, instead of the reverse,"

    def pair(self, spec: TrialSpec, layers: Layers, least: tuple[int, ...]) -> tuple[TrialSpec, TrialSpec]:
        """A trial with the bit moved from the layers with least to some layers, and one with it moved back."""
        there, back = moved_bits.both_ways(spec.kv, layers or (), least)
        return _with_cache(spec, there), _with_cache(spec, back)

    def base(self, spec: TrialSpec) -> TrialSpec | None:
        """The trial with the bit moved back; None for a trial in which none was moved."""
        other = None if spec.edits else moved_bits.other_way(spec.kv)
        return None if other is None else _with_cache(spec, other)

    def layers(self, spec: TrialSpec) -> Layers:
        """The layers that got the bit."""
        return spec.kv.overrides[0].layers


Removal = EditedWeights | ChangedCache | MovedBit


def is_simple(kv: KVSpec) -> bool:
    """Whether a cache is the plain 4-bit one, of one or both sides, on which causes are tested."""
    kept = [quant for quant in (kv.key, kv.value) if quant.method != "none"]
    plain = all((quant.method, quant.bits, quant.rotation) == ("affine", 4, "none") for quant in kept)
    return plain and not kv.overrides


def _with_cache(spec: TrialSpec, kv: KVSpec) -> TrialSpec:
    return spec.model_copy(update={"kv": kv})
