"""Testable claims: what a finding says, in a form that code can evaluate again on other data.

Analysts, LLM roles and published claims state their comparisons as a `Claim`; the judge reads it back from the key
of the finding. In findings' keys configurations are named by their keys, models by their names (long ones by digits).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Literal

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.results import ConfigResult, Place, Results
from swarm.agents.analysis.statistics import Estimate
from swarm.memory.records import Effect, Finding, FindingKind

Relation = Literal["pair", "contrast", "transfer", "intervention", "difference", "cause", "threshold", "growth", "law"]
KEY_PARTS: dict[Relation, tuple[int, int]] = {
    "pair": (2, 1),
    "contrast": (2, 2),
    "transfer": (2, 2),
    "intervention": (2, 1),
    "difference": (2, 2),
    "cause": (4, 1),
}
"""How many configurations and models the keys of comparisons name."""

MAX_NAME_CHARS = 48
MIN_POINTS = 3
"""Points that an exponent needs."""

NEGLIGIBLE = log(1.1)
"""Effects smaller than this ratio are not worth a claim."""


def token(model: str) -> str:
    """A model's name as it stands in keys."""
    if len(model) <= MAX_NAME_CHARS and ":" not in model:
        return model
    return hashlib.sha256(model.encode()).hexdigest()[:10]


def by_token(found: Results) -> Results:
    """The same results keyed by model token."""
    return {(token(model), key): result for (model, key), result in found.items()}


@dataclass(frozen=True)
class Claim:
    """An effect of configurations on a metric.

    - pair: on `models[0]`, the first configuration has the lower metric than the second.
    - transfer: that it does on `models[0]` holds on `models[1]` as well.
    - contrast: the ratio of the first to the second is lower on `models[0]` than on `models[1]`.
    - intervention: on `models[0]` the metric is lower in the first configuration, which is the second one without
      something that is suspected to cause errors, by more than a tenth.
    - difference: that ratio is lower on `models[0]` than on `models[1]`.
    - cause: less than half of the first's advantage over the second (on the logarithmic scale) is left between the
      third and the fourth, which are the same configurations on edited weights.
    - threshold: how large the metric of the one configuration is.
    - growth: with which exponent the metric grows with the number of quantized layers, given as `points`.
    - law: with which exponent the metric grows with G, which is measured in the same trials.

    `models` are tokens, `configurations` are keys; in published claims, where models may need different
    specifications for the same part of a test, they are the names of the parts.
    """

    relation: Relation
    metric: str
    configurations: tuple[str, ...]
    models: tuple[str, ...]
    points: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """The key of the finding."""
        return ":".join((self.relation, self.metric, *self.configurations, *self.models))

    @property
    def kind(self) -> FindingKind:
        """The kind of finding that states it."""
        if self.relation in ("intervention", "difference"):
            return "cause"
        return self.relation if self.relation in ("contrast", "transfer", "cause") else "sensitivity"

    @classmethod
    def parse(cls, key: str) -> Claim | None:
        """The comparison of a key; None when the key states something else."""
        start, *rest = key.split(":")
        relation = next((r for r in KEY_PARTS if r == start), None)
        if relation is None or len(rest) != 1 + sum(KEY_PARTS[relation]):
            return None
        first_model = 1 + KEY_PARTS[relation][0]
        return cls(relation, rest[0], tuple(rest[1:first_model]), tuple(rest[first_model:]))

    @property
    def needs(self) -> list[Place]:
        """What must be measured to decide it: model token and configuration key, model after model."""
        tested = self.models[1:] if self.relation == "transfer" else self.models
        return [(model, key) for model in tested for key in self.configurations]

    def estimate(self, found: Results, replicates: Iterable[int] | None = None) -> Estimate | None:
        """The effect as a number; None while data is missing.

        Comparisons are on the logarithmic scale: negative when the claim is right.

        Args:
            found: measurements of the metric, keyed by model token and configuration key.
            replicates: text windows that comparisons use; None for all.
        """
        measured = [found.get(place) for place in self.needs]
        if self.relation in ("growth", "law"):
            return self._exponent(measured)
        if self.relation == "threshold":
            return statistics.mean(measured[0].values) if measured[0] else None
        if self.relation == "cause":
            kept = self._advantages(measured, replicates)
            return statistics.mean([before / 2 - after for before, after in kept])
        if self.relation in ("contrast", "difference"):
            return statistics.mean([here - there for here, there in self._advantages(measured, replicates)])
        first, second = measured
        return None if first is None or second is None else results.compare(first, second, replicates)

    def _advantages(
        self, measured: list[ConfigResult | None], replicates: Iterable[int] | None
    ) -> list[tuple[float, float]]:
        """ln(first / second) and ln(third / fourth) by window, where all four were measured.

        Windows of two models are paired by their numbers: models that cut text alike read the same text there, and
        pairing loses little where they do not.
        """
        if any(result is None for result in measured):
            return []
        samples = [{} if result is None else result.samples(replicates) for result in measured]
        shared = sorted(set.intersection(*(set(sample) for sample in samples)))
        return [(samples[0][w] - samples[1][w], samples[2][w] - samples[3][w]) for w in shared]

    def _share_gone(self, found: Results) -> Effect | None:
        """How much of the advantage is gone on edited weights: 1 is all of it, negative when it has grown."""
        kept = self._advantages([found.get(place) for place in self.needs], None)
        gone = statistics.mean([before - after for before, after in kept])
        before = statistics.mean([before for before, _ in kept])
        if gone is None or before is None or before.mean >= 0:
            return None
        low, high = sorted(end / before.mean for end in gone.interval())
        return Effect(name="share of the advantage", value=gone.mean / before.mean, low=low, high=high, unit="share")

    def _exponent(self, measured: list[ConfigResult | None]) -> Estimate | None:
        curve = []
        for place, result in enumerate(measured):
            if result is None:
                continue
            y = result.samples()
            x = dict.fromkeys(y, log(self.points[place])) if self.relation == "growth" else _control(result)
            curve.append((x, y))
        return results.exponent(curve) if len(curve) >= MIN_POINTS else None

    def evaluate(self, found: Results) -> Effect | None:
        """The effect with its interval and unit; None while data is missing."""
        estimate = self.estimate(found)
        if estimate is None:
            return None
        if self.relation == "threshold":
            unit = found[self.needs[0]].records[0].metrics[self.metric].unit
            return results.effect(self.metric, estimate, unit)
        if self.relation == "cause":
            return self._share_gone(found)
        if self.relation in ("growth", "law"):
            return results.effect(f"exponent of {'depth' if self.relation == 'growth' else 'G'}", estimate, "exponent")
        contrast = self.relation in ("contrast", "difference")
        return results.ratio(f"ratio of the {self.metric} ratios" if contrast else f"{self.metric} ratio", estimate)

    def finding(self, found: Results, statement: str, effect: Effect, author: str) -> Finding:
        """The finding that states it; what was `found` (as for `estimate`) on all its models is the evidence."""
        places = [*self.needs, *((model, key) for model in self.models for key in self.configurations)]
        used = [found[place] for place in dict.fromkeys(places)]
        names = {token(result.model): result.model for result in used}
        return Finding(
            kind=self.kind,
            key=self.key,
            statement=statement,
            models=tuple(names[model] for model in self.models),
            effect=effect,
            evidence=tuple(i for result in used for i in result.ids),
            author=author,
        )


def _control(result: ConfigResult) -> dict[results.Window, float]:
    """ln(G) per window of the same trials."""
    pooled = results.pool(result.records, "g", result.spec.protocol)
    return next(iter(pooled.values())).samples() if pooled else {}
