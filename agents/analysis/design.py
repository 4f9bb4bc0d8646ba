"""Designed experiments on factors of a cache at equal bits: which configurations they hold, what each factor does.

Each block is a two-level factorial: every combination of two or three factors, half of the combinations of four. Each
main effect can be estimated from all configurations, and is mixed up with none of the interactions of two factors.
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
from swarm.experiments.models.base import ModelInfo
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

REPLICATES = 2
"""Sets of text windows that each block is planned for: the second confirms what the first shows."""

MOST_FREE = 3
"""Factors whose levels are combined freely; the level of a fourth one follows from them."""

Levels = tuple[int, ...]
"""0 or 1 per factor of a block."""


@dataclass(frozen=True)
class Factor:
    """One choice: `name` stands in keys of findings; `words` say in the plural what level 1 is, instead of what."""

    name: str
    words: str


@dataclass(frozen=True)
class Block:
    """Two to four factors, and the configuration at each combination of their levels."""

    factors: tuple[Factor, ...]
    configuration: Callable[..., KVSpec]

    @property
    def rows(self) -> dict[Levels, KVSpec]:
        """The configurations of the factorial, all of about the same cost."""
        rows = {}
        for free in product((0, 1), repeat=min(len(self.factors), MOST_FREE)):
            levels = free if len(free) == len(self.factors) else (*free, sum(free) % 2)
            rows[levels] = self.configuration(*levels)
        return rows

    def measured(self, pooled: Sequence[ConfigResult], model: str) -> dict[Levels, ConfigResult]:
        """The results of a model on the block's configurations, first rung."""
        by_kv = {r.spec.kv: r for r in pooled if r.model == model and not r.spec.rung}
        return {levels: by_kv[kv] for levels, kv in self.rows.items() if kv in by_kv}

    def effects(self, found: Mapping[Levels, ConfigResult]) -> dict[Factor, Estimate]:
        """What each factor does on one model: ln(KLD at level 1 / KLD at level 0), averaged over the other factors.

        One estimate per text window, which all configurations read; windows are the sample, and what holds for them is
        meant to hold for others. With every configuration on the same windows, these are the effects of a mixed model
        with random windows, while their errors need no normal approximation and no iteration. Empty while a
        configuration is missing; without factors whose levels do not cost the same.
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


def _learned(keys: int, values: int, recent: int) -> KVSpec:
    """4 bits in groups of 64, or 3 and the last tokens in 16 bit: 4.5 and 4.3 bits per value at 512 tokens."""
    key, value = (
        _quant("affine", 4 - recent, group_size=64, scaling=("fixed", "learned")[level]) for level in (keys, values)
    )
    return KVSpec(
        key=key,
        value=value,
        residual_window=32 * recent,
    )


def _of_kinds(info: ModelInfo) -> Block:
    """Of which of two kinds of layers the keys need the extra bit: 3 and 4 bits in groups of 32, 4.5 bits per value."""
    apart, _ = info.kinds

    def configuration(split_apart: int, split: int) -> KVSpec:
        key, value = (_quant("affine", bits, group_size=32) for bits in (3 + split, 4 - split))
        swapped = LayerOverride(layers=info.of_kind(apart), key=value, value=key)
        return KVSpec(key=key, value=value, overrides=(swapped,) if split_apart != split else ())

    words = "4-bit keys with 3-bit values in the {} layers instead of the reverse"
    return Block(tuple(Factor(f"bits-to-keys-{kind}", words.format(kind)) for kind in info.kinds), configuration)


PLAIN = Block(
    (
        Factor("key-axis", "keys per channel instead of per token"),
        Factor("key-rotation", "rotated keys instead of plain ones"),
        Factor("value-rotation", "rotated values instead of plain ones"),
        Factor("bits-to-keys", "4-bit keys with 3-bit values instead of the reverse"),
    ),
    _grouped,
)
SCALED = Block(
    (
        Factor("key-scaling", "keys with learned scaling instead of fixed scaling"),
        Factor("value-scaling", "values with learned scaling instead of fixed scaling"),
        Factor("recent", "the last 32 tokens in 16 bit instead of a fourth bit for all"),
    ),
    _learned,
)
ROTATED = Block(
    (
        Factor("wide-groups", "groups of 64 instead of 32, for half a bit more in the codes"),
        Factor("value-method", "values by turboquant_mse instead of rotated affine ones"),
        Factor("sinks", "the first four tokens in 16 bit instead of none"),
        Factor("bits-to-rotated-keys", "more bits for rotated keys than for values instead of the reverse"),
    ),
    _rotated,
)


def blocks(info: ModelInfo) -> tuple[Block, ...]:
    """What is laid out on a model, in this order; kinds of layers are a factor where there are two."""
    kinds = (_of_kinds(info),) if len(info.kinds) == 2 else ()
    return (PLAIN, SCALED, *kinds, ROTATED)
