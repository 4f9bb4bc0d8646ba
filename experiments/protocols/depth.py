"""How an error made in some layers grows through the rest of the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.environment import environment
from swarm.experiments.measurement import divergence, factors, storage
from swarm.experiments.measurement.decode import DecodeSet
from swarm.experiments.protocols.base import Protocol
from swarm.experiments.space.scopes import Scope, Single, Upto
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels import arrays

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.measurement.model_under_test import Subject


class Depth(Protocol):
    """Quantizes layer l, or layers 0 to l, and follows the hidden state to the end."""

    name: ClassVar[str] = "depth"
    summary: ClassVar[str] = "divergence and hidden-state error by depth, with one layer or the first layers quantized"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode",)
    scopes: ClassVar[tuple[type[Scope], ...]] = (Single, Upto)

    def prepare(self, spec: TrialSpec, subject: Subject) -> None:
        """Capture the hidden states of the 16-bit run."""
        subject.shared(DecodeSet.of, spec)

    def measure(self, spec: TrialSpec, subject: Subject) -> Measurement:
        """Run the model over the quantized cache and compare every layer's output with the 16-bit run's."""
        start = time.perf_counter()
        ground = subject.shared(DecodeSet.of, spec)
        ready = time.perf_counter()
        seen: dict[int, mx.array] = {}
        run = ground.run(spec, seen.__setitem__)
        errors = _errors(ground, seen)
        mean, last = errors.mean(1), errors[-1]
        spread = divergence.jackknife(last, divergence.mean)
        return Measurement(
            metrics=(
                *divergence.metrics(run.scores),
                *storage.metrics(run.caches),
                divergence.noise(ground.noise_kld),
                Metric.of("hidden_rel_error", divergence.mean(last), "ratio", len(last), spread),
                *_growth(spec, errors),
            ),
            arrays={
                **divergence.arrays(run.scores),
                "layer_hidden_rel_error": tuple(mean.tolist()),
                "window_hidden_rel_error": tuple(last.tolist()),
            },
            notes=f"{self.rungs[0]}: {ground.scored}; hidden-state error over the same positions."
            + factors.noted(run.caches),
            environment=environment(),
            seconds={"prepare": ready - start, "measure": time.perf_counter() - ready},
        )


def _errors(ground: DecodeSet, seen: dict[int, mx.array]) -> NDArray[np.float64]:
    """|h - h16| / |h16| after each layer [layers, windows]; 0 before the first quantized one."""
    reference = ground.capture["hidden"]
    errors = np.zeros(reference.shape[:2])
    for layer, state in seen.items():
        exact = reference[layer].reshape(len(errors[layer]), -1).astype(np.float64)
        change = arrays.to_numpy(state).reshape(exact.shape) - exact
        errors[layer] = np.linalg.norm(change, axis=1) / np.linalg.norm(exact, axis=1)
    return errors


def _growth(spec: TrialSpec, errors: NDArray[np.float64]) -> tuple[Metric, ...]:
    """The last layer's error over that behind the last quantized layer; nothing where there is no error."""
    source = errors[spec.layers[-1] if spec.layers else -1]
    if not source.all():
        return ()
    ratios = errors[-1] / source
    error = divergence.jackknife(ratios, divergence.mean)
    return (Metric.of("hidden_growth", divergence.mean(ratios), "ratio", len(ratios), error),)
