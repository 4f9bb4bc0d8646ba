"""Results pooled by configuration, and comparisons paired by text window.

A configuration is everything in a specification but the model, its digests, the seed and the replicate. Its
samples are the logarithms of the per-window values: errors of quantized caches spread over decades, and the
windows that are hard for one configuration are hard for its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import log
from statistics import fmean

from swarm.agents.analysis import statistics
from swarm.agents.analysis.statistics import Estimate, bounded_exp
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import FrozenModel, KVSpec
from swarm.memory.records import Effect, TrialRecord

FLOOR = 1e-9
TOLERANCE = 1e-3
NOT_CONFIGURATION = {"model", "model_digest", "corpus_digest", "seed", "replicate", "device"}

Window = tuple[int, int]
"""Replicate and index of a text window."""


class Configuration(FrozenModel):
    """What two models, seeds or text windows can have in common."""

    kv: KVSpec
    layers: tuple[int, ...] | None
    protocol: str
    rung: int
    context: int
    logit_gain: float

    @classmethod
    def of(cls, spec: TrialSpec) -> Configuration:
        """The configuration of a specification."""
        return cls.model_construct(**{name: getattr(spec, name) for name in cls.model_fields})

    @property
    def key(self) -> str:
        """Ten hex digits that identify the configuration in the keys of findings."""
        return _key(self)

    @property
    def label(self) -> str:
        """Short name for people."""
        key, value = self.kv.key.label, self.kv.value.label
        text = self.kv.label.replace(f"K {key} V {value}", f"KV {key}") if key == value else self.kv.label
        if self.layers is not None:
            text += (
                f" layers {self.layers[0]}-{self.layers[-1]}" if len(self.layers) > 1 else f" layer {self.layers[0]}"
            )
        return text + (f" gain {self.logit_gain:g}" if self.logit_gain != 1.0 else "")


@lru_cache(maxsize=16_384)
def _key(configuration: Configuration) -> str:
    return hashlib.sha256(configuration.model_dump_json().encode()).hexdigest()[:10]


@dataclass
class Cell:
    """Everything measured of one metric of one configuration on one model."""

    model: str
    configuration: Configuration
    metric: str
    records: list[TrialRecord] = field(default_factory=list)
    _samples: dict[Window, list[float]] = field(default_factory=dict)

    def add(self, record: TrialRecord) -> None:
        """Pool one more trial: other windows are further samples, other seeds are averaged."""
        self.records.append(record)
        series = record.arrays.get(f"window_{self.metric}") or (record.metrics[self.metric].value,)
        for index, value in enumerate(series):
            self._samples.setdefault((record.spec.replicate, index), []).append(log(max(value, FLOOR)))

    def samples(self, replicates: Iterable[int] | None = None) -> dict[Window, float]:
        """Mean logarithm per window, of all or of the given replicates."""
        wanted = None if replicates is None else set(replicates)
        return {
            window: fmean(values) for window, values in self._samples.items() if wanted is None or window[0] in wanted
        }

    @property
    def replicates(self) -> set[int]:
        """The replicates that were measured."""
        return {window[0] for window in self._samples}

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the trials, in order."""
        return tuple(record.id for record in self.records)

    @property
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

    @property
    def level(self) -> float:
        """Mean of the logarithms over all windows."""
        return fmean(self.samples().values())


Cells = Mapping[tuple[str, str], Cell]
"""Cells by model and key of the configuration."""


def cells(
    records: Iterable[TrialRecord], metric: str = "kld", protocol: str = "quality"
) -> dict[tuple[str, str], Cell]:
    """Pool completed trials of a protocol that carry the metric, by model and configuration, in trial order.

    Trials whose numbers contradict each other are no evidence.
    """
    pooled: dict[tuple[str, str], Cell] = {}
    for record in records:
        if record.state != "complete" or record.spec.protocol != protocol or metric not in record.metrics:
            continue
        if not is_consistent(record):
            continue
        configuration = Configuration.of(record.spec)
        slot = (record.spec.model, configuration.key)
        pooled.setdefault(slot, Cell(record.spec.model, configuration, metric)).add(record)
    return pooled


def is_consistent(record: TrialRecord) -> bool:
    """Whether each metric agrees with its own series of windows: else it was changed afterwards."""
    for name, metric in record.metrics.items():
        series = record.arrays.get(f"window_{name}")
        if series and abs(fmean(series) - metric.value) > TOLERANCE * max(abs(metric.value), FLOOR):
            return False
    return True


def compare(a: Cell, b: Cell, replicates: Iterable[int] | None = None) -> Estimate | None:
    """ln(a / b) over the windows that both were measured on; None for fewer than two common windows."""
    left, right = a.samples(replicates), b.samples(replicates)
    return statistics.mean([left[window] - right[window] for window in sorted(left.keys() & right.keys())])


def ratio(name: str, estimate: Estimate) -> Effect:
    """An estimate of a logarithm as a ratio with its interval."""
    low, high = estimate.interval()
    return Effect(
        name=name, value=bounded_exp(estimate.mean), low=bounded_exp(low), high=bounded_exp(high), unit="ratio"
    )
