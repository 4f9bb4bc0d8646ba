"""The quality trial with the attention scale folded into the weights: an intervention that must change nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.environment import environment
from swarm.experiments.measurement import divergence, factors, storage
from swarm.experiments.measurement.decode import DecodeSet
from swarm.experiments.measurement.folding import folded
from swarm.experiments.protocols.base import Protocol
from swarm.experiments.spec import Measurement, TrialSpec

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import Subject


class Folded(Protocol):
    """Scored against the 16-bit run of the model as it is, on the windows of the quality trial.

    If what matters were whether the scale is written as 1 or as 1/sqrt(d), the result would differ from the quality
    trial's. The search never chooses it; agendas do.
    """

    name: ClassVar[str] = "folded"
    summary: ClassVar[str] = "quality with the attention scale folded into the weights of the queries"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode, attention scale folded into the weights",)

    def prepare(self, spec: TrialSpec, subject: Subject) -> None:
        """Capture what the 16-bit run says."""
        subject.shared(DecodeSet.of, spec)

    def measure(self, spec: TrialSpec, subject: Subject) -> Measurement:
        """Fold, run over the quantized cache, score, unfold."""
        start = time.perf_counter()
        ground = subject.shared(DecodeSet.of, spec)
        ready = time.perf_counter()
        with folded(subject.loaded.model):
            run = ground.run(spec)
        return Measurement(
            metrics=(*divergence.metrics(run.scores), *storage.metrics(run.caches), divergence.noise(ground.noise_kld)),
            arrays=divergence.arrays(run.scores),
            notes=f"{self.rungs[0]}: {ground.scored}." + factors.noted(run.caches),
            environment=environment(),
            seconds={"prepare": ready - start, "measure": time.perf_counter() - ready},
        )
