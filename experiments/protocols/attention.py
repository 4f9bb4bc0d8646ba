"""What quantization does to attention itself, layer by layer, on queries, keys and values captured from the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from swarm.experiments.environment import environment
from swarm.experiments.measurement import (
    divergence,
    factors,
    kernel_time,
    storage,
)
from swarm.experiments.measurement.attention_error import FIELDS, LayerErrors, layer_errors
from swarm.experiments.measurement.decode import DecodeSet, gained_caches
from swarm.experiments.protocols.base import Protocol
from swarm.experiments.space.scopes import All, Scope, Single
from swarm.experiments.spec import Measurement, Metric, TrialSpec

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import Subject

UNITS = {"attention_kl": "nat", "g": "logit"}


class Attention(Protocol):
    """Relative errors of logits, output, keys and values, attention KL, and the controlling number G.

    On a GPU with fused kernels also how long a decode step takes, beside its baselines.
    """

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "errors of attention logits and outputs per layer, on captured Q, K and V"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, attention of the next tokens",)
    scopes: ClassVar[tuple[type[Scope], ...]] = (All, Single)

    def prepare(self, spec: TrialSpec, subject: Subject) -> None:
        """Capture queries, keys and values of the 16-bit run."""
        subject.shared(DecodeSet.of, spec)

    def measure(self, spec: TrialSpec, subject: Subject) -> Measurement:
        """Attend over the quantized cache of each layer in question, every layer with the 16-bit run's inputs."""
        start = time.perf_counter()
        ground = subject.shared(DecodeSet.of, spec)
        ready = time.perf_counter()
        layers = spec.layers if spec.layers is not None else tuple(range(subject.info.n_layers))
        caches = gained_caches(subject, spec)
        errors = [
            layer_errors(given, caches[layer]) for layer, given in zip(layers, ground.layers(layers), strict=True)
        ]
        measured = time.perf_counter()
        timed = kernel_time.metrics(spec, subject.info, layers)
        return Measurement(
            metrics=(*_metrics(errors), *storage.metrics([caches[layer] for layer in layers]), *timed),
            arrays=_arrays(errors),
            notes=f"{self.rungs[0]}: {len(layers)} layers, {ground.scored_queries}; each layer reads 16-bit inputs."
            + factors.noted(caches),
            environment=environment(),
            seconds={
                "prepare": ready - start,
                "measure": measured - ready,
                "time kernels": time.perf_counter() - measured,
            },
        )


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
    found["layer_head_g"] = tuple(np.concatenate([error.head_g for error in errors]).tolist())
    return found
