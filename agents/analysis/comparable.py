"""What of a store can be compared for a recommendation: trials on one text, at one context and rung, on all models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from swarm.agents.analysis import results
from swarm.agents.analysis.levels import Levels
from swarm.agents.analysis.results import ConfigResult
from swarm.experiments.sizing.method import cache_bytes
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.layer_shape import LayerShape
from swarm.kernels.spec import KVSpec
from swarm.memory.records import TrialRecord

ROUNDING = 1e-6
"""By how much a cost may lie above a limit that is meant to be it."""
LEAST_RESULTS = 5
"""Measured configurations without which nothing is recommended."""
MOST_RESULTS = 300
"""Results that are read: the time that it takes grows with their cube."""


@dataclass(frozen=True)
class AskedModel:
    """The model in question as far as its cache is concerned; `digest` is that of its weights, where it is known."""

    name: str
    layers: tuple[LayerShape, ...]
    key_bias: bool = False
    digest: str = ""


@dataclass(frozen=True)
class ComparableResults:
    """What was measured that can be compared: one text, context and rung, on all models.

    Args:
        subject: the model in question.
        records: trials of any campaign, model and protocol.
        layers: what each layer of the other models keeps.
    """

    subject: AskedModel
    records: Sequence[TrialRecord]
    layers: Mapping[str, Sequence[LayerShape]]

    @cached_property
    def results(self) -> list[ConfigResult]:
        """KLD of quantized caches by model and configuration, first rung: those of the model in question first."""
        usable = [r for r in self.records if _is_comparable(r) and r.spec.model in self._layers]
        total = Counter((r.spec.context, r.spec.corpus_digest) for r in usable)
        own = Counter((r.spec.context, r.spec.corpus_digest) for r in usable if r.spec.model == self.subject.name)
        if not total:
            return []
        enough = {place: count >= LEAST_RESULTS for place, count in total.items()}
        context, text = max(total, key=lambda p: (enough[p], own[p], total[p], -p[0], p[1]))
        digests = {r.spec.model: r.spec.model_digest for r in usable}  # the latest weights of each name
        digests |= {self.subject.name: self.subject.digest} if self.subject.digest else {}
        same = [
            r
            for r in usable
            if (r.spec.context, r.spec.corpus_digest) == (context, text)
            and r.spec.model_digest == digests[r.spec.model]
        ]
        found = [r for r in results.pool(same).values() if r.is_quantized]
        ours = sorted((r for r in found if r.model == self.subject.name), key=lambda r: r.level)
        return [*ours, *(r for r in reversed(found) if r.model != self.subject.name)][:MOST_RESULTS]

    @cached_property
    def own(self) -> dict[KVSpec, ConfigResult]:
        """Those of the model in question, by configuration."""
        return {r.spec.kv: r for r in self.results if r.model == self.subject.name}

    @cached_property
    def levels(self) -> Levels:
        """What they say of each other."""
        return Levels(self.results, {name: len(layers) for name, layers in self._layers.items()})

    @property
    def _layers(self) -> dict[str, Sequence[LayerShape]]:
        return {**self.layers, self.subject.name: self.subject.layers}

    @property
    def template(self) -> TrialSpec:
        """A trial on the model in question that can be compared with the others."""
        spec = self.results[0].spec
        own = spec.model == self.subject.name
        digest = spec.model_digest if own else self.subject.digest
        return spec.model_copy(update={"model": self.subject.name, "model_digest": digest, "replicate": 0, "seed": 0})

    def pool(self, cost: Callable[[KVSpec], float], most: float) -> dict[KVSpec, float]:
        """Configurations that cost no more than so much, with their cost.

        Those measured on the model, and those measured on others that fit it: without learned factors, which would have
        to be fitted first, and alike in all layers.
        """
        found = {}
        for kv in dict.fromkeys(r.spec.kv for r in self.results):
            if kv not in self.own and not self._fits(kv):
                continue
            try:
                price = cost(kv)
            except SpecError:  # its blocks do not fit the size of the heads
                continue
            if price <= most * (1 + ROUNDING):
                found[kv] = price
        return found

    def bits(self, kv: KVSpec) -> float:
        """Bits per value at the context of the trials: measured, or from what was measured on another model.

        Raises:
            SpecError: the configuration does not fit this model.
        """
        result = self.own.get(kv) or next(r for r in self.results if r.spec.kv == kv)
        here, there = (self._share(kv, model) for model in (self.subject.name, result.model))
        return float(result.bits or 0.0) * here / there

    def _share(self, kv: KVSpec, model: str) -> float:
        """Bytes of the cache over those in 16 bit, by arithmetic."""
        context, layers = self.template.context, self._layers[model]
        return cache_bytes(layers, kv, context) / cache_bytes(layers, KVSpec(), context)

    def _fits(self, kv: KVSpec) -> bool:
        plain = kv.layers is None and not kv.overrides
        learned = "learned" in (kv.key.scaling, kv.value.scaling)
        return plain and not learned and (self.subject.key_bias or kv.key_bias == "keep")


def _is_comparable(record: TrialRecord) -> bool:
    spec = record.spec
    return (
        record.state == "complete"
        and spec.protocol == "quality"
        and spec.rung == 0
        and spec.logit_gain == 1.0
        and not (spec.edits or record.outdated)
    )
