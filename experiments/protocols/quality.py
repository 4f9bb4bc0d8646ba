"""How a quantized cache changes what the whole model says next, as llama-perplexity measures it."""

from __future__ import annotations

from typing import Any, ClassVar

from swarm.experiments.measurement.decode import DecodeRun
from swarm.experiments.measurement.prefill import PrefillRun
from swarm.experiments.measurement.reference_run import ScoredRun
from swarm.experiments.protocols.base import ComparedProtocol, scored
from swarm.experiments.space.layers import ALL, BAND, PROTECT, Scope
from swarm.experiments.spec import Measurement, TrialSpec


class Quality(ComparedProtocol[ScoredRun]):
    """Kullback-Leibler divergence from the 16-bit run over text windows, with the cache that users deploy."""

    name: ClassVar[str] = "quality"
    summary: ClassVar[str] = "divergence of next-token distributions from the 16-bit run, and bits per value"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode", "full quantized prefill")
    scopes: ClassVar[tuple[Scope, ...]] = (ALL, PROTECT, BAND)
    references = (DecodeRun, PrefillRun)

    def compare(self, spec: TrialSpec, reference: ScoredRun, caches: list[Any]) -> Measurement:
        """Run the model over the quantized cache and score it."""
        return scored(reference.run(caches, spec), reference, caches)
