"""The quality trial with the attention scale folded into the weights: an intervention that must change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.measurement.decode import DecodeRun
from swarm.experiments.measurement.edited_capture import Swaps
from swarm.experiments.measurement.editing import fold_scale
from swarm.experiments.protocols.base import ComparedProtocol, scored
from swarm.experiments.spec import Measurement, TrialSpec

if TYPE_CHECKING:
    import mlx.nn as nn


class Folded(ComparedProtocol[DecodeRun]):
    """Scored against the 16-bit run of the model as it is, on the windows of the quality trial.

    If what matters were whether the scale is written as 1 or as 1/sqrt(d), the result would differ from the quality
    trial's. The search never chooses it; published claims do.
    """

    name: ClassVar[str] = "folded"
    summary: ClassVar[str] = "quality with the attention scale folded into the weights of the queries"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode, attention scale folded into the weights",)
    references = (DecodeRun,)

    def compare(self, spec: TrialSpec, reference: DecodeRun, caches: list[Any]) -> Measurement:
        """Fold, run over the quantized cache, score, unfold."""
        with folded(reference.subject.loaded.model):
            scores = reference.run(caches, spec)
        return scored(scores, reference, caches)


@contextmanager
def folded(model: nn.Module) -> Iterator[None]:
    """For the time of the block every attention scale is 1.0 and its factor sits in q_norm or q_proj.

    Raises:
        SpecError: a layer whose attention has no scale, or whose queries come from weights of another kind.
    """
    with Swaps() as undo:
        for number, layer in enumerate(model.layers):
            fold_scale(getattr(layer, "self_attn", None), number, undo)
        yield
