"""Whether a model still finds, follows and counts what it read: RULER's kinds of question (arXiv 2404.06654)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.environment import environment
from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.haystack import KINDS
from swarm.experiments.measurement.retrieval_run import Answers, RetrievalRun
from swarm.experiments.protocols.base import ComparedProtocol, storage
from swarm.experiments.space.layers import ALL, PROTECT, Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec


class Retrieval(ComparedProtocol[RetrievalRun]):
    """Questions about facts that are hidden in text, each answered beside the 16-bit run of the same prompt.

    A question that 16 bit answers wrongly is no loss: `kept` and `lost_p` are over those that it answers.
    """

    name: ClassVar[str] = "retrieval"
    summary: ClassVar[str] = "answers about facts hidden in a text that 16 bit gives and the quantized cache loses"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, questions over the quantized text", "full quantized prefill")
    scopes: ClassVar[tuple[Scope, ...]] = (ALL, PROTECT)
    references = (RetrievalRun, RetrievalRun)
    least_context: ClassVar[int] = 384

    def compare(self, spec: TrialSpec, reference: RetrievalRun, caches: list[Any]) -> Measurement:
        """Read the texts, ask the questions and compare the answers one by one."""
        (reference.read if spec.rung else reference.fill)(caches)
        found, exact = reference.ask(caches), reference.reference
        return Measurement(
            metrics=(*_metrics(found, exact, reference.kinds), *storage(caches)),
            arrays=_arrays(found, exact, reference),
            notes=f"{reference.asked}; {_answered(exact, reference.kinds)}",
            environment=environment(),
        )


def _metrics(found: Answers, exact: Answers, kinds: tuple[str, ...]) -> list[Metric]:
    """Standard errors are over texts; n is their number."""
    texts = len(found.nll)
    answered = exact.matches

    def metric(name: str, unit: str, values: NDArray[np.float64]) -> Metric:
        return Metric.of(name, divergence.mean(values), unit, texts, divergence.jackknife(values, divergence.mean))

    def share(name: str, unit: str, values: NDArray[np.float64], among: NDArray[np.bool_]) -> Metric:
        """A mean over the answered questions alone; texts without any say nothing."""
        pairs = np.stack([(values * among).sum(1), among.sum(1)], axis=1, dtype=np.float64)
        pairs = pairs[pairs[:, 1] > 0]
        return Metric.of(name, _ratio(pairs), unit, len(pairs), divergence.jackknife(pairs, _ratio))

    kept = (found.matches & answered).astype(np.float64)
    metrics = [
        metric("delta_nll", "nat", found.nll - exact.nll),
        metric("answered", "share", found.matches.astype(np.float64)),
        metric("answered_16bit", "share", answered.astype(np.float64)),
    ]
    if answered.any():
        metrics.append(share("kept", "share", kept, answered))
        metrics.append(share("lost_p", "probability", np.exp(-exact.nll) - np.exp(-found.nll), answered))
    for kind in dict.fromkeys(kinds):
        among = answered & (np.array(kinds) == kind)
        if among.any():
            metrics.append(share(f"kept_{kind}", "share", kept, among))
    return metrics


def _ratio(pairs: NDArray[np.float64]) -> float:
    total, count = pairs.sum(0)
    return float(total / count)


def _arrays(found: Answers, exact: Answers, reference: RetrievalRun) -> dict[str, tuple[float, ...]]:
    """Per question, text by text: its kind's place in `KINDS`, depth, probability and match, with 16 bit's."""
    kinds = np.broadcast_to([KINDS.index(kind) for kind in reference.kinds], found.nll.shape)
    items = {
        "item_kind": kinds,
        "item_depth": reference.depths,
        "item_p": np.exp(-found.nll),
        "item_p_16bit": np.exp(-exact.nll),
        "item_match": found.matches,
        "item_match_16bit": exact.matches,
    }
    series = {name: tuple(map(float, values.reshape(-1))) for name, values in items.items()}
    change, matches = (x.mean(1).tolist() for x in (found.nll - exact.nll, found.matches))
    return series | {"window_delta_nll": tuple(change), "window_answered": tuple(matches)}


def _answered(exact: Answers, kinds: tuple[str, ...]) -> str:
    """What 16 bit can do, in words."""
    counts = {
        kind: (int(exact.matches[:, np.array(kinds) == kind].sum()), len(exact.matches) * kinds.count(kind))
        for kind in dict.fromkeys(kinds)
    }
    if not exact.matches.any():
        return "16 bit answers none of them: the model cannot do this task at this length, and nothing can be lost"
    able = ", ".join(f"{right} of {asked} {kind}" for kind, (right, asked) in counts.items() if right)
    unable = ", ".join(kind for kind, (right, _) in counts.items() if not right)
    left_out = ", ".join(kind for kind in KINDS if kind not in counts)
    return (
        f"16 bit answers {able}"
        + (f"; it cannot do {unable}, where nothing can be lost" if unable else "")
        + (f"; no room for {left_out}" if left_out else "")
    )
