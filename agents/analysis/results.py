"""Results pooled by configuration, and comparisons paired by text window.

A configuration is everything in a specification but the model, its digests, the seed and the replicate. Its
samples are the logarithms of the per-window values: errors of quantized caches spread over decades, and the
windows that are hard for one configuration are hard for its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import log
from statistics import fmean

from swarm.agents.analysis import statistics
from swarm.agents.analysis.statistics import Estimate, bounded_exp
from swarm.experiments import edits
from swarm.experiments.spec import TrialSpec
from swarm.memory.records import Effect, TrialRecord

FLOOR = 1e-9
"""KLD below which a measurement is rounding."""
TOLERANCE = 1e-3
"""Relative difference up to which a metric is the mean of its own windows."""
CONFIGURATION_FIELDS = {"kv", "protocol", "rung", "context", "logit_gain", "edits", "engine"}
"""Fields of a specification that two models, seeds or text windows can have in common."""

Window = tuple[int, int]
"""Replicate and index of a text window."""


@lru_cache(maxsize=16_384)
def config_key(spec: TrialSpec) -> str:
    """Ten hex digits that identify the configuration of a specification in the keys of findings."""
    # As release 0.1 wrote it, with the layers beside the cache: keys of findings stay what they are.
    kv = spec.kv.model_dump_json(exclude={"layers"})
    layers = "null" if spec.layers is None else f"[{','.join(map(str, spec.layers))}]"
    rest = spec.model_dump_json(include=CONFIGURATION_FIELDS - {"kv"})
    return hashlib.sha256(f'{{"kv":{kv},"layers":{layers},{rest[1:]}'.encode()).hexdigest()[:10]


def config_label(spec: TrialSpec) -> str:
    """Short name of the configuration of a specification, for people."""
    if spec.engine is not None:
        return spec.engine.label
    gain = f" gain {spec.logit_gain:g}" if spec.logit_gain != 1.0 else ""
    return spec.kv.short_label + gain + (f" with {edits.label(spec.edits)}" if spec.edits else "")


@dataclass(frozen=True, eq=False)
class ConfigResult:
    """Everything measured of one metric of one configuration on one model: at least one trial, in order."""

    metric: str
    records: tuple[TrialRecord, ...]

    @property
    def spec(self) -> TrialSpec:
        """The specification of the first trial."""
        return self.records[0].spec

    @property
    def model(self) -> str:
        """The model's name."""
        return self.spec.model

    @property
    def key(self) -> str:
        """The configuration's key."""
        return config_key(self.spec)

    @property
    def label(self) -> str:
        """The configuration's name for people."""
        return config_label(self.spec)

    @property
    def is_quantized(self) -> bool:
        """Whether keys or values are held in less than 16 bit."""
        return (self.spec.kv.key.method, self.spec.kv.value.method) != ("none", "none")

    def _series(self, record: TrialRecord) -> tuple[float, ...]:
        return record.arrays.get(f"window_{self.metric}") or (record.metrics[self.metric].value,)

    @property
    def values(self) -> list[float]:
        """The values of all windows of all trials."""
        return [value for record in self.records for value in self._series(record)]

    @cached_property
    def _logs(self) -> dict[Window, float]:
        """Mean logarithm per window: other replicates are further windows, other seeds are averaged."""
        pooled: dict[Window, list[float]] = {}
        for record in self.records:
            for index, value in enumerate(self._series(record)):
                pooled.setdefault((record.spec.replicate, index), []).append(log(max(value, FLOOR)))
        return {window: fmean(values) for window, values in pooled.items()}

    def samples(self, replicates: Iterable[int] | None = None) -> dict[Window, float]:
        """Mean logarithm per window, of all or of the given replicates."""
        wanted = None if replicates is None else set(replicates)
        return {window: value for window, value in self._logs.items() if wanted is None or window[0] in wanted}

    @property
    def replicates(self) -> set[int]:
        """The replicates that were measured."""
        return {window[0] for window in self._logs}

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the trials, in order."""
        return tuple(record.id for record in self.records)

    @cached_property
    def bits(self) -> float | None:
        """Bits per value, when it was measured."""
        found = [r.metrics["bits_per_value"].value for r in self.records if "bits_per_value" in r.metrics]
        return fmean(found) if found else None

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the metric itself (not its logarithm), from the first trial's standard error."""
        metric = self.records[0].metrics[self.metric]
        if metric.stderr is None or metric.n < 2:
            return metric.value, metric.value
        return Estimate(metric.value, metric.stderr, metric.n - 1, metric.n).interval()

    @cached_property
    def level(self) -> float:
        """Mean of the logarithms over all windows."""
        return fmean(self._logs.values())


Place = tuple[str, str]
"""A model (its name, or its token in keys) and the key of a configuration."""

Results = Mapping[Place, ConfigResult]


def pool(records: Iterable[TrialRecord], metric: str = "kld", protocol: str = "quality") -> dict[Place, ConfigResult]:
    """Completed trials of a protocol that carry the metric, by model and configuration, in trial order.

    Trials whose numbers contradict each other, and those of older versions, are no evidence.
    """
    pooled: dict[Place, list[TrialRecord]] = {}
    for record in records:
        measured = record.state == "complete" and record.spec.protocol == protocol and metric in record.metrics
        if measured and not record.outdated and is_consistent(record):
            pooled.setdefault((record.spec.model, config_key(record.spec)), []).append(record)
    return {place: ConfigResult(metric, tuple(members)) for place, members in pooled.items()}


def is_consistent(record: TrialRecord) -> bool:
    """Whether each metric agrees with its own series of windows: else it was changed afterwards."""
    for name, metric in record.metrics.items():
        series = record.arrays.get(f"window_{name}")
        if series and abs(fmean(series) - metric.value) > TOLERANCE * max(abs(metric.value), FLOOR):
            return False
    return True


def compare(a: ConfigResult, b: ConfigResult, replicates: Iterable[int] | None = None) -> Estimate | None:
    """ln(a / b) over the windows that both were measured on; None for fewer than two common windows."""
    left, right = a.samples(replicates), b.samples(replicates)
    return statistics.mean([left[window] - right[window] for window in sorted(left.keys() & right.keys())])


def residuals(found: Sequence[ConfigResult]) -> list[float]:
    """Levels less what a straight line over the bits explains of them."""
    return list(statistics.residuals([result.bits or 0.0 for result in found], [result.level for result in found]))


def exponent(curve: Sequence[tuple[Mapping[Window, float], Mapping[Window, float]]]) -> Estimate | None:
    """The exponent of a power law: the mean of one slope per text window.

    Args:
        curve: per point ln(x) and ln(y) by window; windows that a point lacks are left out.
    """
    shared = sorted(set.intersection(*(x.keys() & y.keys() for x, y in curve)))
    slopes = [statistics.slope([x[w] for x, _ in curve], [y[w] for _, y in curve]) for w in shared]
    return statistics.mean([slope.mean for slope in slopes if slope is not None])


def ratio(name: str, estimate: Estimate) -> Effect:
    """An estimate of a logarithm as a ratio with its interval."""
    low, high = map(bounded_exp, estimate.interval())
    return Effect(name=name, value=bounded_exp(estimate.mean), low=low, high=high, unit="ratio")


def effect(name: str, estimate: Estimate, unit: str) -> Effect:
    """An estimate as it is, with its interval."""
    low, high = estimate.interval()
    return Effect(name=name, value=estimate.mean, low=low, high=high, unit=unit)
