"""How an error made in some layers grows through the rest of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.decode import DecodeRun
from swarm.experiments.protocols.base import ComparedProtocol, scored
from swarm.experiments.space.layers import SINGLE, UPTO, Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels import arrays

if TYPE_CHECKING:
    import mlx.core as mx


class Depth(ComparedProtocol[DecodeRun]):
    """Quantizes layer l, or layers 0 to l, and follows the hidden state to the end."""

    name: ClassVar[str] = "depth"
    summary: ClassVar[str] = "divergence and hidden-state error by depth, with one layer or the first layers quantized"
    rungs: ClassVar[tuple[str, ...]] = ("16-bit prefill, quantized decode",)
    scopes: ClassVar[tuple[Scope, ...]] = (SINGLE, UPTO)
    references = (DecodeRun,)

    def compare(self, spec: TrialSpec, reference: DecodeRun, caches: list[Any]) -> Measurement:
        """Run the model over the quantized cache and compare every layer's output with the 16-bit run's."""
        seen: dict[int, mx.array] = {}
        scores = reference.run(caches, spec, seen.__setitem__)
        errors = _errors(reference, seen)
        mean, last = errors.mean(1), errors[-1]
        spread = divergence.jackknife(last, divergence.mean)
        return scored(
            scores,
            reference,
            caches,
            metrics=(
                Metric.of("hidden_rel_error", divergence.mean(last), "ratio", len(last), spread),
                *_growth(reference, spec, errors),
            ),
            arrays={"layer_hidden_rel_error": tuple(mean.tolist()), "window_hidden_rel_error": tuple(last.tolist())},
            notes="; hidden-state error over the same positions",
        )


def _errors(reference: DecodeRun, seen: dict[int, mx.array]) -> NDArray[np.float64]:
    """|h - h16| / |h16| after each layer [layers, windows]; 0 before the first quantized one."""
    hidden = reference.capture["hidden"]
    errors = np.zeros(hidden.shape[:2])
    for layer, state in seen.items():
        exact = hidden[layer].reshape(len(errors[layer]), -1).astype(np.float64)
        change = arrays.to_numpy(state).reshape(exact.shape) - exact
        errors[layer] = np.linalg.norm(change, axis=1) / np.linalg.norm(exact, axis=1)
    return errors


def _growth(reference: DecodeRun, spec: TrialSpec, errors: NDArray[np.float64]) -> tuple[Metric, ...]:
    """The last block's error over that behind the last quantized layer; nothing where there is no error."""
    block = reference.subject.forward.blocks[spec.layers[-1]] if spec.layers else -1
    source = errors[block] if block is not None else np.zeros(1)
    if not source.all():
        return ()
    ratios = errors[-1] / source
    error = divergence.jackknife(ratios, divergence.mean)
    return (Metric.of("hidden_growth", divergence.mean(ratios), "ratio", len(ratios), error),)
