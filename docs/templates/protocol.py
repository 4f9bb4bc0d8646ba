"""Template of a protocol: the quality trial with one metric more, the share of positions that became certain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.measurement.decode import DecodeRun
from swarm.experiments.measurement.reference_run import ScoredRun
from swarm.experiments.protocols.base import ComparedProtocol, scored
from swarm.experiments.space.layers import ALL, Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec

if TYPE_CHECKING:
    from swarm.kernels.cache import PackedKVCache

CLOSE = 0.01


class Unharmed(ComparedProtocol[ScoredRun]):
    """Divergence from the 16-bit run, and the share of windows that it leaves as good as alone."""

    name: ClassVar[str] = "unharmed"
    summary: ClassVar[str] = "share of text windows whose divergence from 16 bit is below 0.01 nat"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode",)
    scopes: ClassVar[tuple[Scope, ...]] = (ALL,)
    references = (DecodeRun,)

    def compare(self, spec: TrialSpec, reference: ScoredRun, caches: list[PackedKVCache]) -> Measurement:
        """Run the model over the quantized cache, score it, and count the windows."""
        scores = reference.run(caches, spec)
        windows = scores.kld.mean(-1)
        unharmed = Metric.of("unharmed", float((windows < CLOSE).mean()), "share", len(windows))
        return scored(scores, reference, caches, metrics=(unharmed,))
