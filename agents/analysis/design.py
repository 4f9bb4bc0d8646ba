"""A designed experiment on factors of a cache at equal bits: which configurations it holds, and what each factor does.

Half of a two-level factorial in four factors: each main effect can be estimated from all eight configurations, and is
mixed up with none of the interactions of two factors (resolution IV).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from swarm.agents.analysis import statistics
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.statistics import Estimate
from swarm.kernels.spec import KVSpec, QuantSpec

REPLICATES = 2
"""Sets of text windows that the design is planned for: the second confirms what the first shows."""

Levels = tuple[int, ...]
"""0 or 1 per factor, in the order of `FACTORS`."""


@dataclass(frozen=True)
class Factor:
    """One choice. `name` stands in keys of findings; `words` say what level 1 is, and what instead of."""

    name: str
    words: str


FACTORS = (
    Factor("key-axis", "keys per channel instead of per token"),
    Factor("key-rotation", "rotated keys instead of plain ones"),
    Factor("value-rotation", "rotated values instead of plain ones"),
    Factor("bits-to-keys", "one more bit for keys and one less for values instead of the reverse"),
)


def rows() -> dict[Levels, KVSpec]:
    """The configurations, all of the same cost: 3 and 4 bits in groups of 32, 4.5 bits per value with metadata."""
    return {
        (axis, key, value, split): _configuration(axis, key, value, split)
        for axis, key, value in product((0, 1), repeat=3)
        for split in ((axis + key + value) % 2,)
    }


def _configuration(axis: int, key: int, value: int, split: int) -> KVSpec:
    def side(bits: int, rotated: int, along: str) -> QuantSpec:
        fields = {"method": "kivi", "bits": bits, "group_size": 32, "axis": along}
        return QuantSpec.model_validate({**fields, "rotation": "hadamard" if rotated else "none"})

    return KVSpec(key=side(3 + split, key, "channel" if axis else "token"), value=side(4 - split, value, "token"))


def effects(found: Mapping[Levels, ConfigResult]) -> dict[Factor, Estimate]:
    """What each factor does on one model: ln(KLD at level 1 / KLD at level 0), averaged over the other factors.

    One estimate per text window, which all configurations read; windows are the sample, and what holds for them is
    meant to hold for others (a mixed model with random windows, whose estimate this is when every configuration reads
    the same ones). Empty while a configuration is missing.
    """
    if found.keys() != rows().keys():
        return {}
    samples = {levels: result.samples() for levels, result in found.items()}
    shared = sorted(set.intersection(*(set(sample) for sample in samples.values())))
    estimated = {}
    for index, factor in enumerate(FACTORS):
        by_window = [
            fmean(samples[levels][w] for levels in samples if levels[index])
            - fmean(samples[levels][w] for levels in samples if not levels[index])
            for w in shared
        ]
        estimate = statistics.mean(by_window)
        if estimate is not None:
            estimated[factor] = estimate
    return estimated


def measured(pooled: Sequence[ConfigResult], model: str) -> dict[Levels, ConfigResult]:
    """The results of a model on the design's configurations, first rung."""
    by_kv = {r.spec.kv: r for r in pooled if r.model == model and not r.spec.rung}
    return {levels: by_kv[kv] for levels, kv in rows().items() if kv in by_kv}
