"""Designed experiments on factors of a cache at equal bits: which configurations they hold, what each factor does.

Each block is half of a two-level factorial in four factors: each main effect can be estimated from all eight
configurations, and is mixed up with none of the interactions of two factors (resolution IV).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from swarm.agents.analysis import statistics
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate
from swarm.kernels.spec import KVSpec, QuantSpec

REPLICATES = 2
"""Sets of text windows that each block is planned for: the second confirms what the first shows."""

Levels = tuple[int, int, int, int]
"""0 or 1 per factor of a block."""


@dataclass(frozen=True)
class Factor:
    """One choice: `name` stands in keys of findings; `words` say in the plural what level 1 is, instead of what."""

    name: str
    words: str


@dataclass(frozen=True)
class Block:
    """Four factors, and the configuration at each combination of their levels."""

    factors: tuple[Factor, Factor, Factor, Factor]
    configuration: Callable[[int, int, int, int], KVSpec]

    @property
    def rows(self) -> dict[Levels, KVSpec]:
        """The configurations of the half factorial, all of about the same cost."""
        return {
            (a, b, c, d): self.configuration(a, b, c, d)
            for a, b, c in product((0, 1), repeat=3)
            for d in ((a + b + c) % 2,)
        }

    def measured(self, pooled: Sequence[ConfigResult], model: str) -> dict[Levels, ConfigResult]:
        """The results of a model on the block's configurations, first rung."""
        by_kv = {r.spec.kv: r for r in pooled if r.model == model and not r.spec.rung}
        return {levels: by_kv[kv] for levels, kv in self.rows.items() if kv in by_kv}

    def effects(self, found: Mapping[Levels, ConfigResult]) -> dict[Factor, Estimate]:
        """What each factor does on one model: ln(KLD at level 1 / KLD at level 0), averaged over the other factors.

        One estimate per text window, which all configurations read; windows are the sample, and what holds for them is
        meant to hold for others. With every configuration on the same windows, that is what a mixed model estimates
        with windows, and their interactions with the factors, as random effects. Empty while a configuration is
        missing; without factors whose levels do not cost the same.
        """
        if found.keys() != self.rows.keys():
            return {}
        samples = {levels: result.samples() for levels, result in found.items()}
        shared = sorted(set.intersection(*(set(sample) for sample in samples.values())))
        estimated = {}
        for index, factor in enumerate(self.factors):
            cost = [fmean(r.bits or 0.0 for ls, r in found.items() if ls[index] == level) for level in (0, 1)]
            by_window = [
                fmean(samples[levels][w] for levels in samples if levels[index])
                - fmean(samples[levels][w] for levels in samples if not levels[index])
                for w in shared
            ]
            estimate = statistics.mean(by_window)
            if estimate is not None and costs_the_same(*cost):
                estimated[factor] = estimate
        return estimated


def _quant(method: str, bits: int, **fields: Any) -> QuantSpec:
    return QuantSpec.model_validate({"method": method, "bits": bits, **fields})


def _grouped(axis: int, turned: int, values: int, split: int) -> KVSpec:
    """3 and 4 bits in groups of 32: 4.5 bits per value with metadata."""
    rotations = ("none", "hadamard")
    return KVSpec(
        key=_quant("kivi", 3 + split, group_size=32, axis=("token", "channel")[axis], rotation=rotations[turned]),
        value=_quant("kivi", 4 - split, group_size=32, axis="token", rotation=rotations[values]),
    )


def _rotated(wide: int, method: int, sinks: int, split: int) -> KVSpec:
    """Rotated: 3 and 4 bits in groups of 32, or 3 and 5 in groups of 64, 4.5 bits per value; values near that."""
    group, low, high = (64, 3, 5) if wide else (32, 3, 4)
    key, value = (high, low) if split else (low, high)
    plain = _quant("affine", value, group_size=group, rotation="hadamard")
    return KVSpec(
        key=_quant("affine", key, group_size=group, rotation="hadamard"),
        value=_quant("turboquant_mse", value + (not wide)) if method else plain,
        sink_tokens=4 * sinks,
    )


BLOCKS = (
    Block(
        (
            Factor("key-axis", "keys per channel instead of per token"),
            Factor("key-rotation", "rotated keys instead of plain ones"),
            Factor("value-rotation", "rotated values instead of plain ones"),
            Factor("bits-to-keys", "4-bit keys with 3-bit values instead of the reverse"),
        ),
        _grouped,
    ),
    Block(
        (
            Factor("wide-groups", "groups of 64 instead of 32, for half a bit more in the codes"),
            Factor("value-method", "values by turboquant_mse instead of rotated affine ones"),
            Factor("sinks", "the first four tokens in 16 bit instead of none"),
            Factor("bits-to-rotated-keys", "more bits for rotated keys than for values instead of the reverse"),
        ),
        _rotated,
    ),
)
"""What is laid out on every model, in this order."""
