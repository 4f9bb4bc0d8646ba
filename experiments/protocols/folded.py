"""The quality trial with the attention scale folded into the weights: an intervention that must change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from swarm.experiments.measurement.decode import DecodeRun
from swarm.experiments.protocols.base import ComparedProtocol, scored
from swarm.experiments.spec import Measurement, TrialSpec
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    import mlx.nn as nn

    from swarm.kernels.cache import PackedKVCache

REMEDY = "Run the trial with protocol quality."


class Folded(ComparedProtocol[DecodeRun]):
    """Scored against the 16-bit run of the model as it is, on the windows of the quality trial.

    If what matters were whether the scale is written as 1 or as 1/sqrt(d), the result would differ from the quality
    trial's. The search never chooses it; published claims do.
    """

    name: ClassVar[str] = "folded"
    summary: ClassVar[str] = "quality with the attention scale folded into the weights of the queries"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode, attention scale folded into the weights",)
    references = (DecodeRun,)

    def compare(self, spec: TrialSpec, reference: DecodeRun, caches: list[PackedKVCache]) -> Measurement:
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
    with ExitStack() as undo:
        for number, layer in enumerate(model.layers):
            attention = getattr(layer, "self_attn", None)
            scale = getattr(attention, "scale", None)
            if attention is None or not isinstance(scale, float | int):
                raise SpecError(f"layer {number} has no attention scale to fold.", REMEDY)
            norm = attention.get("q_norm")
            _scale_norm(norm, float(scale), undo) if norm is not None else _scale_linear(
                attention.get("q_proj"), float(scale), undo
            )
            undo.callback(setattr, attention, "scale", scale)
            attention.scale = 1.0
        yield


def _scale_norm(norm: Any, factor: float, undo: ExitStack) -> None:
    """A norm's output is a function of its weight w: w itself, or 1 + w (Gemma)."""
    import mlx.core as mx

    weight = norm.get("weight")
    if weight is None:
        raise SpecError("the norm of the queries has no weight.", REMEDY)
    shown = norm(mx.ones((1, weight.shape[0]), dtype=mx.float32))[0]
    offset = next((o for o in (0.0, 1.0) if mx.allclose(shown, weight + o, rtol=1e-2, atol=1e-2).item()), None)
    if offset is None:
        raise SpecError("the norm of the queries is of an unknown kind.", REMEDY)
    undo.callback(norm.__setitem__, "weight", weight)
    norm["weight"] = ((weight + offset) * factor - offset).astype(weight.dtype)


def _scale_linear(linear: Any, factor: float, undo: ExitStack) -> None:
    """A product is linear in its weight and bias; a packed one in its scales and biases."""
    import mlx.core as mx

    names = [] if linear is None else [n for n in ("weight", "scales", "biases", "bias") if n in linear]
    if "scales" in names:
        names.remove("weight")
    if not names or ("scales" in names and "biases" not in names):
        raise SpecError("the queries come from a product of an unknown kind.", REMEDY)
    for name in names:
        array: mx.array = linear[name]
        undo.callback(linear.__setitem__, name, array)
        linear[name] = (array * factor).astype(array.dtype)
