"""What quantization does to attention itself, layer by layer, on queries, keys and values captured from the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from swarm.experiments.environment import environment
from swarm.experiments.measurement import attention_facts, divergence, kernel_time
from swarm.experiments.measurement.attention_error import FIELDS, LayerErrors, layer_errors
from swarm.experiments.measurement.decode import DecodeRun
from swarm.experiments.protocols.base import ComparedProtocol, storage
from swarm.experiments.space.layers import ALL, SINGLE, Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import packed_layers

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.models.base import ModelInfo

UNITS = {"attention_kl": "nat", "g": "logit"}


class Attention(ComparedProtocol[DecodeRun]):
    """Relative errors of logits, output, keys and values, attention KL, and the controlling number G.

    On a GPU with fused kernels also how long a decode step takes, beside its baselines.
    """

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "errors of attention logits and outputs per layer, on captured Q, K and V"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, attention of the next tokens",)
    scopes: ClassVar[tuple[Scope, ...]] = (ALL, SINGLE)
    references = (DecodeRun,)
    version: ClassVar[int] = 2

    def layers_of(self, info: ModelInfo) -> tuple[int, ...]:
        """Layers whose attention can be measured alone."""
        return info.shown_layers

    def compare(self, spec: TrialSpec, reference: DecodeRun, caches: list[Any]) -> Measurement:
        """Attend over the quantized cache of each layer in question, every layer with the 16-bit run's inputs."""
        layers = spec.layers or self.layers_of(reference.subject.info)
        if not layers:
            raise SpecError(f"{spec.model} computes attention itself, out of sight.", "Use protocol quality.")
        used = [cache for cache in packed_layers(caches) if cache.layer in layers]
        errors = [layer_errors(given, cache) for given, cache in zip(reference.layers(layers), used, strict=True)]
        return Measurement(
            metrics=(*_metrics(errors), *storage(used)),
            arrays={**_arrays(errors), **attention_facts.series(list(reference.layers(layers)))},
            notes=f"{len(layers)} layers, {reference.scored_queries}; each layer reads 16-bit inputs",
            environment=environment(),
        )

    def needs(self, spec: TrialSpec) -> str:
        """The 16-bit run, and on a GPU the times of the kernels that read the formats."""
        kernels = "" if spec.device == "cpu" else f", kernels of K {spec.kv.key.label} V {spec.kv.value.label}"
        return super().needs(spec) + kernels

    def prepare(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        """Time the kernels, which needs no model, then capture the 16-bit run."""
        self._time_kernels(spec, subject)
        super().prepare(spec, subject)

    def measure(self, spec: TrialSpec, subject: ModelUnderTest) -> Measurement:
        """Compare, then time the kernels."""
        found = super().measure(spec, subject)
        start = time.perf_counter()
        timed = self._time_kernels(spec, subject)
        changed = {
            "metrics": (*found.metrics, *timed.metrics),
            "notes": found.notes + timed.note,
            "seconds": {**found.seconds, "time kernels": time.perf_counter() - start},
        }
        return found.model_copy(update=changed)

    def _time_kernels(self, spec: TrialSpec, subject: ModelUnderTest) -> kernel_time.Timed:
        layers = spec.layers or self.layers_of(subject.info)
        return kernel_time.measure(spec, subject.info, layers, subject.kernels, subject.captures)


def _metrics(errors: list[LayerErrors]) -> list[Metric]:
    """Means over layers; standard errors over windows."""
    found = []
    for name in FIELDS:
        windows = np.mean([getattr(error, name) for error in errors], axis=0)
        error = divergence.jackknife(windows, divergence.mean)
        found.append(Metric.of(name, divergence.mean(windows), UNITS.get(name, "ratio"), len(windows), error))
    return found


def _arrays(errors: list[LayerErrors]) -> dict[str, tuple[float, ...]]:
    """Per layer (in the order of the trial's layers), per window, and G per layer and query head, row by row."""
    found = {}
    for name in FIELDS:
        values = np.array([getattr(error, name) for error in errors])
        found[f"layer_{name}"] = tuple(values.mean(1).tolist())
        found[f"window_{name}"] = tuple(values.mean(0).tolist())
    found["layer_sink_mass"] = tuple(float(error.sink_mass.mean()) for error in errors)
    found["layer_head_g"] = tuple(np.concatenate([error.head_g for error in errors]).tolist())
    return found
