"""Times the decode attention of a trial's layers where the back-end has fused kernels.

One query token over a cache of `context` packed tokens of random vectors, without sinks and recent 16-bit tokens;
each layer shape once. A back-end without fused kernels is not timed: there is no kernel to report.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

from swarm.experiments.spec import Metric
from swarm.kernels.backends import base as backends
from swarm.kernels.errors import BackendError
from swarm.kernels.fused import peers
from swarm.kernels.fused.timing import TRIAL, Effort, Roof, Timing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.backends.base import Backend
    from swarm.kernels.spec import QuantSpec

# Metric names of the paths; a path that does not run for every layer in question has no metric.
NAMES = {
    peers.FUSED: "decode_us",
    peers.SDPA: "decode_us_sdpa16",
    peers.DEQUANTIZE: "decode_us_dequantize",
    peers.QUANTIZED: "decode_us_quantized_matmul",
    peers.TORCH: "decode_us_torch_sdpa16",
}
Layer = tuple[peers.AttentionShape, "QuantSpec", "QuantSpec"]


def metrics(
    spec: TrialSpec,
    info: ModelInfo,
    layers: Sequence[int],
    *,
    backend: Backend | None = None,
    roof: Roof | None = None,
    effort: Effort = TRIAL,
) -> list[Metric]:
    """Microseconds per decode step of the fused kernel and its baselines, bytes, GB/s and shares; means over layers.

    Nothing where the back-end has no fused kernel for these formats, or keys and values differ in size.

    Args:
        spec: the trial.
        info: its model's facts.
        layers: the quantized layers.
        backend: where to run, this machine's if left out.
        roof: what the device does at best, measured once per process if left out.
        effort: how much is spent on each timing.
    """
    backend = backend or backends.current()
    if backend.fused is None or any(info.layers[layer].key_dim != info.layers[layer].value_dim for layer in layers):
        return []
    counts = Counter(_layer(spec, info, layer) for layer in layers)
    try:
        found = {layer: peers.compare(backend, *layer, spec.context, effort)[0] for layer in counts}
    except BackendError:  # no kernel reads one of the formats
        return []
    roof = roof or _roof()
    weight = {layer: count / len(layers) for layer, count in counts.items()}
    means = {
        name: sum(weight[layer] * _median(times, path) for layer, times in found.items())
        for path, name in NAMES.items()
        if all(any(t.path == path for t in times) for times in found.values())
    }
    nbytes = sum(weight[layer] * times[0].nbytes for layer, times in found.items())
    least = sum(
        weight[layer] * roof.least_microseconds(times[0].nbytes, layer[0].operations(spec.context))
        for layer, times in found.items()
    )
    ours = means[NAMES[peers.FUSED]]
    rate = nbytes / ours / 1e3
    return [
        *(Metric.of(name, value, "us", effort.repeats) for name, value in means.items()),
        Metric.of("decode_bytes", nbytes, "B"),
        Metric.of("decode_bandwidth", rate, "GB/s", effort.repeats),
        Metric.of("decode_share_of_copy", rate / roof.copy, "of copy bandwidth", effort.repeats),
        Metric.of("decode_share_of_roofline", least / ours, "of roofline", effort.repeats),
    ]


def _layer(spec: TrialSpec, info: ModelInfo, layer: int) -> Layer:
    kv = spec.kv.at(layer)
    kept = info.layers[layer]
    shape = peers.AttentionShape(info.name, info.n_heads, kept.kv_heads, kept.key_dim, kept.reach)
    return shape, kv.key, kv.value


def _median(times: list[Timing], path: str) -> float:
    return next(entry.median for entry in times if entry.path == path)


@cache
def _roof() -> Roof:
    return Roof.measured(copied=2**28, order=2048, repeats=TRIAL.repeats)
