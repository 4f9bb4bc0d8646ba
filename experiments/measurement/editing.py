"""Applies edits of weights to a model in memory for the time of a trial, see `experiments.edits`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.edits import Part, WeightEdit
from swarm.experiments.measurement import attention_facts, learned_scaling
from swarm.experiments.measurement.edited_capture import Changes, LayerChange, Swaps
from swarm.experiments.measurement.reference_run import float32_from_file
from swarm.kernels import layers
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    import mlx.nn as nn

    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.measurement.reference_run import LayerInputs
    from swarm.experiments.spec import TrialSpec

Floats = NDArray[np.float32]

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
"""Modules of `mlx_lm.models` whose attention is known to be left as it is by the edits."""
EVERY = 16
"""One channel (of keys: rotary pair) in so many becomes an outlier."""
SIZED = ("even", "balanced")
"""Changes that depend on the magnitudes of channels."""
MAX_EVEN = 2.0**8
"""The most that a channel is multiplied or divided by."""
REMEDY = "Run the trial without edits, or on a model of another family."


@contextmanager
def edited(spec: TrialSpec, subject: ModelUnderTest) -> Iterator[None]:
    """For the time of the block the model in memory has the trial's edits.

    Raises:
        SpecError: the model's attention is of a kind whose function the edits might change.
    """
    if not spec.edits:
        yield
        return
    model = subject.loaded.model
    attentions = layers.attention_modules(model, subject.traced)
    missing = [layer for edit in spec.edits for layer in edit.layers or () if layer >= len(attentions)]
    if missing:
        raise SpecError(f"layer {missing[0]} does not exist in {subject.name}.", "Edit layers that it has.")
    calibration = _calibration(spec, subject) if any(edit.change in SIZED for edit in spec.edits) else None
    with Swaps() as undo:
        changes = Changes(undo)
        for layer, attention in enumerate(attentions):
            here = [edit for edit in spec.edits if edit.covers(layer)]
            if not here:
                continue
            _check(attention, layer)
            given = calibration[layer] if calibration is not None else None
            of_keys, of_values, folded = ([e for e in here if e.part == part] for part in ("keys", "values", "scale"))
            keys = _factors(attention, of_keys, given) if of_keys else None
            values = _factors(attention, of_values, given) if of_values else None
            if keys is not None:
                _scale_keys(attention, keys, undo)
            if values is not None:
                _scale_values(attention, values, undo)
            scale = fold_scale(attention, layer, undo) if folded else None
            changes.layers[layer] = LayerChange(keys, values, scale)
        subject.changes = changes
        try:
            yield
        finally:
            subject.changes = None


def _calibration(spec: TrialSpec, subject: ModelUnderTest) -> list[LayerInputs]:
    """What attention of every layer is given on calibration text, of the model as it is."""
    plain = learned_scaling.calibration_spec(spec.model_copy(update={"edits": ()}), subject)
    return subject.shared(learned_scaling.CalibrationRun, plain).given


def _check(attention: Any, layer: int) -> None:
    family = type(attention).__module__.rpartition(".")[2]
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    if family not in FAMILIES or not type(attention).__module__.startswith("mlx_lm.models."):
        raise SpecError(f"attention of the family {family} (layer {layer}) is not known to edits.", REMEDY)
    if any(name not in attention or "weight" not in attention[name] for name in names):
        raise SpecError(f"layer {layer} has not the matrices {', '.join(names)}.", REMEDY)
    if any("scales" in attention[name] for name in names):
        raise SpecError(f"the weights of layer {layer} are quantized.", "Use the model's 16-bit weights.")


def _factors(attention: Any, edits: Sequence[WeightEdit], given: LayerInputs | None) -> Floats:
    """Factors [H, D] for keys or values: equal on rotary pairs for keys, and for all heads where a norm is shared."""
    heads, dim = int(attention.n_kv_heads), attention.k_proj.weight.shape[0] // int(attention.n_kv_heads)
    part: Part = edits[0].part
    groups = _pairs(attention.rope, dim) if part == "keys" else np.arange(dim)
    total = np.ones((heads, dim), np.float32)
    for edit in edits:
        if edit.change == "outliers":
            total *= np.where(groups % EVERY == EVERY // 2, np.float32(edit.factor), np.float32(1))
        elif edit.change == "scaled":
            total *= np.float32(edit.factor)
        elif given is not None:
            sizes = _sizes(attention, edit, given) * total
            total *= _evening(sizes, groups, shared=part == "keys" and "k_norm" in attention)
    return total


def _sizes(attention: Any, edit: WeightEdit, given: LayerInputs) -> Floats:
    """What an edit makes equal [H, D]: root mean squares, or the roots of their ratio to those of what reads them."""
    carried = learned_scaling.rms(float32_from_file(given.keys if edit.part == "keys" else given.values))
    if edit.change == "even":
        return carried
    if edit.part == "keys":
        return attention_facts.balance(carried, given.queries)
    heads, dim = carried.shape
    rows = np.array(attention.o_proj.weight, np.float32).T.reshape(1, heads, -1, dim, attention.o_proj.weight.shape[0])
    return attention_facts.balance(carried, rows.swapaxes(3, 4).reshape(1, heads, -1, dim))


def _pairs(rope: Any, dim: int) -> NDArray[np.intp]:
    """The number of the rotary pair of each channel; channels that are not rotated are on their own."""
    rotated = int(rope.dims)
    channel = np.arange(dim)
    pair = channel // 2 if rope.traditional else channel % max(rotated // 2, 1)
    return np.where(channel < rotated, pair, channel)


def _evening(magnitudes: Floats, groups: NDArray[np.intp], *, shared: bool) -> Floats:
    """Powers of two [H, D] that bring the channels of each head to about the same magnitude."""
    logs = np.log2(magnitudes)
    if shared:
        logs = np.broadcast_to(logs.mean(0, keepdims=True), logs.shape)
    logs = logs - logs.mean(-1, keepdims=True)
    members = groups[None] == np.unique(groups)[:, None]
    of_group = (logs @ members.T) / members.sum(1)
    factors: Floats = np.exp2(-np.rint(of_group @ members)).astype(np.float32)
    return np.clip(factors, 1 / MAX_EVEN, MAX_EVEN)


def _scale_keys(attention: Any, factors: Floats, undo: Swaps) -> None:
    if "k_norm" in attention:
        scale_norm(attention.k_norm, factors[0], undo)
        scale_norm(attention.q_norm, 1 / factors[0], undo)
        return
    repeats = int(attention.n_heads) // len(factors)
    scale_rows(attention.k_proj, factors.reshape(-1), undo)
    scale_rows(attention.q_proj, np.repeat(np.reciprocal(factors), repeats, axis=0).reshape(-1), undo)


def _scale_values(attention: Any, factors: Floats, undo: Swaps) -> None:
    repeats = int(attention.n_heads) // len(factors)
    scale_rows(attention.v_proj, factors.reshape(-1), undo)
    _replace(attention.o_proj, "weight", np.repeat(np.reciprocal(factors), repeats, axis=0).reshape(1, -1), undo)


def fold_scale(attention: Any, layer: int, undo: Swaps) -> float:
    """Put the attention scale into q_norm or q_proj, and 1 in its place; returns the scale.

    Raises:
        SpecError: the attention has no scale, or its queries come from weights of another kind.
    """
    scale = getattr(attention, "scale", None)
    if attention is None or not isinstance(scale, float | int):
        raise SpecError(f"layer {layer} has no attention scale to fold.", REMEDY)
    norm = attention.get("q_norm")
    if norm is not None:
        scale_norm(norm, float(scale), undo)
    else:
        scale_rows(attention.get("q_proj"), float(scale), undo)
    undo.attribute(attention, "scale", 1.0)
    return float(scale)


def scale_norm(norm: Any, factor: float | Floats, undo: Swaps) -> None:
    """Multiply a norm's output, a function of its weight w: w itself, or 1 + w (Gemma).

    Raises:
        SpecError: it is another function.
    """
    import mlx.core as mx

    weight = norm.get("weight")
    if weight is None:
        raise SpecError("the norm of queries or keys has no weight.", REMEDY)
    shown = norm(mx.ones((1, weight.shape[0]), dtype=mx.float32))[0]
    offset = next((o for o in (0.0, 1.0) if mx.allclose(shown, weight + o, rtol=1e-2, atol=1e-2).item()), None)
    if offset is None:
        raise SpecError("the norm of queries or keys is of an unknown kind.", REMEDY)
    undo.item(norm, "weight", ((weight + offset) * mx.array(factor) - offset).astype(weight.dtype))


def scale_rows(linear: Any, factor: float | Floats, undo: Swaps) -> None:
    """Multiply the outputs of a product: it is linear in its weight and bias, a packed one in its scales and biases.

    Raises:
        SpecError: a product of an unknown kind.
    """
    names = [] if linear is None else [n for n in ("weight", "scales", "biases", "bias") if n in linear]
    if "scales" in names:
        names.remove("weight")
    if not names or ("scales" in names and "biases" not in names):
        raise SpecError("queries, keys or values come from a product of an unknown kind.", REMEDY)
    column = np.asarray(factor, np.float32).reshape(-1, 1)
    for name in names:
        _replace(linear, name, column[:, 0] if name == "bias" else column, undo)


def _replace(module: nn.Module, name: str, factor: Floats, undo: Swaps) -> None:
    import mlx.core as mx

    array: mx.array = module[name]
    undo.item(module, name, (array * mx.array(factor)).astype(array.dtype))
