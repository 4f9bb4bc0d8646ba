"""Folds the attention scale into the weights that make the queries, for a while: scale 1, the same model.

Knows the attention modules of mlx-lm models; knows no caches and no metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    import mlx.nn as nn

REMEDY = "Run the trial with protocol quality."


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
