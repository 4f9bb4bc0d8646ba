"""How a quantized cache changes what the whole model says next, as llama-perplexity measures it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.environment import environment
from swarm.experiments.measurement import divergence, factors, storage
from swarm.experiments.measurement.decode import DecodeSet
from swarm.experiments.measurement.prefill import PrefillSet
from swarm.experiments.protocols.base import Protocol
from swarm.experiments.space.scopes import (
    All,
    Band,
    Protect,
    Scope,
)
from swarm.experiments.spec import Measurement, TrialSpec

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import Subject

SETS: tuple[Callable[[TrialSpec, Subject], DecodeSet | PrefillSet], ...] = (DecodeSet.of, PrefillSet.of)


class Quality(Protocol):
    """Kullback-Leibler divergence from the 16-bit run over text windows, with the cache that users deploy."""

    name: ClassVar[str] = "quality"
    summary: ClassVar[str] = "divergence of next-token distributions from the 16-bit run, and bits per value"
    rungs: ClassVar[tuple[str, ...]] = (
        "16-bit prefill, quantized decode",
        "full quantized prefill",
    )
    scopes: ClassVar[tuple[type[Scope], ...]] = (All, Protect, Band)

    def prepare(self, spec: TrialSpec, subject: Subject) -> None:
        """Capture what the 16-bit run says."""
        subject.shared(SETS[spec.rung], spec)

    def measure(self, spec: TrialSpec, subject: Subject) -> Measurement:
        """Run the model over the quantized cache and score it."""
        start = time.perf_counter()
        ground = subject.shared(SETS[spec.rung], spec)
        ready = time.perf_counter()
        run = ground.run(spec)
        return Measurement(
            metrics=(*divergence.metrics(run.scores), *storage.metrics(run.caches), divergence.noise(ground.noise_kld)),
            arrays=divergence.arrays(run.scores),
            notes=f"{self.rungs[spec.rung]}: {ground.scored}." + factors.noted(run.caches),
            environment=environment(),
            seconds={"prepare": ready - start, "measure": time.perf_counter() - ready},
        )
