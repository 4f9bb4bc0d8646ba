"""Times the decode attention of a trial's formats where the back-end has fused kernels, at contexts of its own.

One query token over a cache of packed tokens of random vectors, without sinks and recent 16-bit tokens; each layer
shape once. A back-end without fused kernels is not timed: there is no kernel to report. What was timed on a device is
kept with the captures: a kernel once per shape, formats and version of the code, and once per shape what no format
changes (MLX's attention over 16 bit, and once per device what it does at best). So no worker compiles a kernel that
another one has timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

from swarm.experiments import artifacts
from swarm.experiments.environment import arithmetic, code_version, device_name
from swarm.experiments.spec import Metric
from swarm.kernels.backends import base as backends
from swarm.kernels.errors import BackendError
from swarm.kernels.fused import peers
from swarm.kernels.fused.half_precision import AttentionShape, HalfSets
from swarm.kernels.fused.timing import TRIAL, Effort, Roof

if TYPE_CHECKING:
    from swarm.experiments.artifacts import CaptureStore, CaptureWriter
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import KernelTiming, TrialSpec
    from swarm.kernels.backends.base import Backend
    from swarm.kernels.layer_shape import LayerShape
    from swarm.kernels.spec import QuantSpec

MICROSECONDS, HALF_PRECISION, BYTES = "decode_us", "decode_us_sdpa16", "decode_bytes"
SHARES = {"decode_share_of_copy": "of copy bandwidth", "decode_share_of_roofline": "of roofline"}
FEW_TOKENS = 64
Formats = tuple["QuantSpec", "QuantSpec"]
Layer = tuple[AttentionShape, "QuantSpec", "QuantSpec"]
Layers = Mapping[Layer, int]
ONCE = Effort(1, 1, 1, 1, 1)


@dataclass(frozen=True)
class _Bench:
    """Where kernels are timed, and with how much effort."""

    backend: Backend
    captures: CaptureStore
    roof: Roof
    effort: Effort


@dataclass
class Timed:
    """Metrics of the kernels of a trial, and the contexts that the device has no memory for."""

    metrics: list[Metric] = field(default_factory=list)
    too_large: list[int] = field(default_factory=list)

    @property
    def note(self) -> str:
        """What a measurement says about contexts that were left out; empty when none was."""
        if not self.too_large:
            return ""
        contexts = ", ".join(map(str, sorted(set(self.too_large))))
        return f" No kernel was timed at {contexts} tokens: the device has not enough free memory."


def measure(
    spec: TrialSpec,
    info: ModelInfo,
    layers: Sequence[int],
    timing: KernelTiming,
    captures: CaptureStore,
    *,
    backend: Backend | None = None,
    roof: Roof | None = None,
    effort: Effort = TRIAL,
) -> Timed:
    """Per context `decode_us_at_TOKENS`, microseconds of one decode step of one layer, and what to compare it with.

    That is MLX's attention over 16 bit, the bytes of keys and values, and shares of what the device does at best;
    means over layers. The same with `_of_SHAPE` for another model's layers. Nothing where the back-end has no fused
    kernel for these formats, or keys and values differ in size.

    Args:
        spec: the trial.
        info: its model's facts.
        layers: the quantized layers.
        timing: contexts and the other model.
        captures: where what no format changes is kept.
        backend: where to run, this machine's if left out.
        roof: what the device does at best, measured once per device if left out.
        effort: how much is spent on each timing.

    Raises:
        UnknownNameError, ModelError: there is no such other model.
    """
    backend = backend or backends.current()
    found = Timed()
    if backend.fused is None or not timing.contexts:
        return found
    formats = [(spec.kv.at(layer).key, spec.kv.at(layer).value) for layer in layers]
    counted = {"": _counted(info.name, info.n_heads, [info.layers[layer] for layer in layers], formats)}
    if timing.shape:
        from swarm.experiments.sizing import models

        other = models.find(timing.shape)
        kept = [layer for layer in other.layers if layer.kv_heads]
        same = [(spec.kv.key, spec.kv.value)] * len(kept)
        counted[f"_of_{timing.shape}"] = _counted(other.name, other.query_heads, kept, same)
    artifacts.writable(captures.root)
    bench = _Bench(backend, captures, roof or _roof(captures, effort), effort)
    for suffix, some in counted.items():
        try:
            _time(some, suffix, timing.contexts, bench, found)
        except BackendError:  # no kernel reads one of the formats
            continue
    return found


def metric_name(context: int, shape: str = "") -> str:
    """The metric that says how many microseconds a decode step of a layer takes at a context."""
    return f"{MICROSECONDS}_at_{context}" + (f"_of_{shape}" if shape else "")


def _alone(captures: CaptureStore) -> AbstractContextManager[None]:
    """No other process of this machine times kernels meanwhile; trials of other kinds go on."""
    return artifacts.locked(captures.root / ".kernel-timing.lock")


def _counted(name: str, query_heads: int, layers: Sequence[LayerShape], formats: Sequence[Formats]) -> Layers:
    """How many layers are of a shape and stored in given formats; empty where the kernels do not take one of them."""
    if any(layer.latent or layer.key_dim != layer.value_dim for layer in layers):
        return {}
    shapes = [AttentionShape(name, query_heads, one.kv_heads, one.key_dim, one.reach) for one in layers]
    return Counter((shape, *sides) for shape, sides in zip(shapes, formats, strict=True))


def _time(layers: Layers, suffix: str, contexts: Sequence[int], bench: _Bench, found: Timed) -> None:
    """Add the metrics of some layers, each with the number of layers that are like it, at every context.

    Raises:
        BackendError: no kernel reads one of the formats.
    """
    free = _free_bytes()
    fit = [at for at in contexts if all(4 * HalfSets(shape, at, 1).nbytes <= free for shape, _, _ in layers)]
    kernels = {layer: _kernel(layer, fit, bench) for layer in layers if fit}
    found.too_large += [context for context in contexts if layers and context not in fit]
    for context in fit if layers else ():
        means = dict.fromkeys((MICROSECONDS, HALF_PRECISION, BYTES, "least"), 0.0)
        for layer, count in layers.items():
            shape, nbytes = layer[0], peers.packed_bytes(*layer, context)
            parts = (
                kernels[layer][context],
                _half_precision(shape, context, bench),
                nbytes,
                bench.roof.least_microseconds(nbytes, shape.operations(context)),
            )
            for name, part in zip(means, parts, strict=True):
                means[name] += part * count / sum(layers.values())
        shares = means[BYTES] / means[MICROSECONDS] / 1e3 / bench.roof.copy, means["least"] / means[MICROSECONDS]
        at, repeats = f"_at_{context}{suffix}", bench.effort.repeats
        found.metrics += [
            *(Metric.of(name + at, means[name], "us", repeats) for name in (MICROSECONDS, HALF_PRECISION)),
            Metric.of(BYTES + at, means[BYTES], "B"),
            *(Metric.of(n + at, share, unit, repeats) for (n, unit), share in zip(SHARES.items(), shares, strict=True)),
        ]


def _kernel(layer: Layer, contexts: Sequence[int], bench: _Bench) -> dict[int, float]:
    """Microseconds of the kernel over a layer at every context, timed once per device and version of the code.

    Raises:
        BackendError: no kernel reads one of the formats.
    """
    shape, *formats = layer
    told = " ".join(peers.fixed(spec).label for spec in formats)
    key = _key(bench.effort) | _heads(shape) | {"formats": told, "window": shape.window or 0, "code": code_version()}

    def write(writer: CaptureWriter) -> None:
        peers.Sets(bench.backend, *layer, FEW_TOKENS, 1).paths()  # before many tokens are packed in vain
        peers.kernel(bench.backend, *layer, min(contexts), ONCE)  # compiles, before others have to wait
        times: dict[int, float] = {}  # by tokens that are seen: a window sees as many at every context
        with _alone(bench.captures):
            for context in contexts:
                seen = shape.seen(context)
                if seen not in times:
                    times[seen] = peers.kernel(bench.backend, *layer, context, bench.effort).low
        writer.facts |= {str(context): times[shape.seen(context)] for context in contexts}

    found = bench.captures.get("kernel", key | {"contexts": " ".join(map(str, contexts))}, write)
    return {context: float(found.facts[str(context)]) for context in contexts}


def _half_precision(shape: AttentionShape, context: int, bench: _Bench) -> float:
    """Microseconds of MLX's attention over 16 bit, timed once per device and shape of a layer."""
    seen = shape.seen(context)

    def write(writer: CaptureWriter) -> None:
        with _alone(bench.captures):
            writer.facts["us"] = peers.half_precision(replace(shape, window=None), seen, bench.effort).low

    key = _key(bench.effort) | _heads(shape) | {"seen": seen}
    return float(bench.captures.get("kernel", key, write).facts["us"])


def _heads(shape: AttentionShape) -> dict[str, str]:
    return {"heads": f"{shape.q_heads} {shape.kv_heads} {shape.head_dim}"}


def _roof(captures: CaptureStore, effort: Effort) -> Roof:
    """What the device does at best, measured once."""

    def write(writer: CaptureWriter) -> None:
        with _alone(captures):
            roof = Roof.measured(copied=2**28, order=2048, repeats=effort.repeats)
        writer.facts |= {"copy": roof.copy, "flops": roof.flops}

    return Roof(**captures.get("roof", _key(effort), write).facts)


def _key(effort: Effort) -> dict[str, str | int | float]:
    return {"device": device_name(), "arithmetic": arithmetic(), "effort": str(effort)}


def _free_bytes() -> float:
    """Free memory of the device, other processes' counted where it tells; without a bound where it does not."""
    import mlx.core as mx

    found = mx.device_info()
    return float(found.get("free_memory", found.get("max_recommended_working_set_size", inf)))
