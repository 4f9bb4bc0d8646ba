"""How the divergence grows with the context, and how much of it comes from tokens that lie far back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from swarm.experiments.measurement.decode import DecodeRun, tail_tokens
from swarm.experiments.measurement.divergence import Scores, jackknife, mean
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.protocols.base import ComparedProtocol, scored
from swarm.experiments.space.layers import ALL, PROTECT, Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import ModelUnderTest

SHORTEST = 512
"""The first context that is measured, in tokens."""
FACTOR = 4
"""How many times the one before each further context is."""


class Context(ComparedProtocol[DecodeRun]):
    """The quality trial at 512 tokens, four times as many and so on up to the context, as `depth` has one per layer.

    At the whole context it is repeated with the last 512 (2,048, ...) tokens in 16 bit: what divergence is left comes
    from tokens that lie farther back.
    """

    name: ClassVar[str] = "context"
    summary: ClassVar[str] = "divergence as a function of the context, and of the distance of what is attended"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode",)
    scopes: ClassVar[tuple[Scope, ...]] = (ALL, PROTECT)
    references = (DecodeRun,)

    def prepare(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        """Capture the 16-bit run at every context."""
        for context in contexts(spec.context):
            subject.shared(DecodeRun, spec.model_copy(update={"context": context}))

    def compare(self, spec: TrialSpec, reference: DecodeRun, caches: list[Any]) -> Measurement:
        """Run the model at every context, then at the longest with recent tokens in 16 bit."""
        subject = reference.subject
        whole = reference.run(caches, spec)
        *shorter, _ = contexts(spec.context)
        curve = {}
        for context in shorter:
            part = spec.model_copy(update={"context": context})
            curve[context] = subject.shared(DecodeRun, part).run(trial_caches(part, subject), part)
        curve[spec.context] = whole
        far = {}
        for recent in shorter:
            kept = max(recent, spec.kv.residual_window)
            if kept < spec.context - tail_tokens(spec.context):
                part = spec.model_copy(update={"kv": spec.kv.model_copy(update={"residual_window": kept})})
                far[recent] = reference.run(trial_caches(part, subject), part)
        metrics = [_kld(f"kld_at_{context}", scores) for context, scores in curve.items()]
        metrics += [_kld(f"kld_beyond_{recent}", scores) for recent, scores in far.items()]
        return scored(
            whole,
            reference,
            caches,
            metrics=(*metrics, *_exponent({context: scores.kld.mean() for context, scores in curve.items()})),
            arrays={
                "context_tokens": tuple(map(float, curve)),
                "context_kld": tuple(m.value for m in metrics[: len(curve)]),
            },
            notes=f"; contexts of {', '.join(map(str, curve))} tokens, each on windows of its own",
        )


def contexts(longest: int) -> tuple[int, ...]:
    """The contexts of a curve, the shortest first."""
    found = []
    context = SHORTEST
    while context < longest:
        found.append(context)
        context *= FACTOR
    return (*found, longest)


def _kld(name: str, scores: Scores) -> Metric:
    return Metric.of(name, mean(scores.kld), "nat", len(scores.kld), jackknife(scores.kld, mean))


def _exponent(curve: dict[int, float]) -> tuple[Metric, ...]:
    """The slope of ln KLD over ln context; nothing for one context, or without divergence."""
    if len(curve) < 2 or not all(value > 0 for value in curve.values()):
        return ()
    x, y = np.log(list(curve)), np.log(list(curve.values()))
    return (Metric.of("context_exponent", float(np.polyfit(x, y, 1)[0]), "", len(curve)),)
