"""Learned scaling: per-channel factors and clip ratios, fitted to the attention output on calibration text.

Candidates for the factors are products of powers of what the channels carry (the family of SmoothQuant, arXiv
2211.10438): keys k / f meet queries q f, so a channel with large keys and small queries can be shrunk for free.
Chosen per layer is what changes the attention output least, through the attention that models run with. Neither the
reconstruction error nor a scored window has a say: no scored window reads the part of the corpus for calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.attention_error import attend, attention_output
from swarm.experiments.measurement.reference_run import (
    AttentionRecorder,
    ReferenceRun,
    append,
    float32_from_file,
    layer_arrays,
    save_layers,
)
from swarm.experiments.measurement.stored_factors import LayerFactors
from swarm.kernels import arrays, attention
from swarm.kernels.codec import Factors
from swarm.kernels.errors import SpecError
from swarm.kernels.last_view import HandsOutArrays
from swarm.kernels.model_cache import make_cache, packed_layers
from swarm.kernels.quantizers.base import Side
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.artifacts import CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.measurement.reference_run import LayerInputs
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.arrays import Array
    from swarm.kernels.cache import PackedKVCache

Floats = NDArray[np.float32]
Magnitudes = tuple[Floats, Floats]
"""Root mean squares [H, D] of keys or values, and of the queries that meet them."""

SCALING_VERSION = 1
"""Raised when learned scaling finds other factors for the same captures."""
WINDOWS = 2
"""Windows of calibration text that factors are fitted to."""
CONTEXT = 512
"""Tokens of such a window, where the model can read so many."""
TAIL = 32
"""Last tokens of a window, whose attention output is compared."""
POWERS: dict[Side, tuple[tuple[float, float], ...]] = {
    "key": ((0, 0), (0.5, 0), (1, 0), (0, 0.5), (0.25, 0.25), (0.5, 0.5)),
    "value": ((0, 0), (0.25, 0), (0.5, 0), (0.75, 0), (1, 0)),
}
"""Powers of the channels' own magnitude, and (inverse) of the queries'; the first is no scaling."""
CLIPS = (1.0, 0.95, 0.9, 0.8)
"""Clip ratios; the first is no clipping."""
MAX_FACTOR_RATIO = 16.0
"""A factor stays within this ratio of the geometric mean, so that 16-bit types hold what they held."""


def trial_caches(spec: TrialSpec, subject: ModelUnderTest) -> list[Any]:
    """Empty caches of a trial as the model takes them, with its logit gain and the learned factors that it needs.

    Raises:
        SpecError: the specification does not fit the model.
        CorpusError, DiskFullError: as `learned` does.
    """
    factors = learned(spec, subject) or None
    caches = make_cache(subject.loaded.model, spec.kv, seed=spec.seed, factors=factors, traced=subject.traced)
    for cache in packed_layers(caches):
        if spec.logit_gain != 1.0 and isinstance(cache, HandsOutArrays):
            raise SpecError(
                f"{spec.model} computes the attention of layer {cache.layer} itself, so its logits take no gain.",
                "Leave logit_gain at 1.",
            )
        cache.logit_gain = spec.logit_gain
    return caches


def learns(kv: KVSpec) -> bool:
    """Whether any side of any layer has learned scaling."""
    specs = [kv.key, kv.value, *(spec for one in kv.overrides for spec in (one.key, one.value))]
    return any(spec is not None and spec.scaling == "learned" for spec in specs)


def learned(spec: TrialSpec, subject: ModelUnderTest) -> LayerFactors:
    """The factors that a trial's caches need, by layer and side; empty when no side has learned scaling.

    Fitted on first use, then read back: keyed by weights, text, versions, side, specification and seed, and by nothing
    else of the trial.

    Raises:
        CorpusError: the text is too short to calibrate on.
        DiskFullError: there is no space to keep them.
    """
    found: dict[int, dict[str, Factors]] = {}
    for at, layer in enumerate(subject.info.kv_layers):
        kv = spec.kv.at(layer)
        # Only this side is quantized, and everything that may be: what one side needs does not depend on the rest.
        alone: dict[Side, KVSpec] = {}
        if kv.key.scaling == "learned":
            alone["key"] = KVSpec(key=kv.key, key_bias=kv.key_bias)
        if kv.value.scaling == "learned":
            alone["value"] = KVSpec(value=kv.value)
        if alone:
            found[layer] = {side: _fitted(side, one, spec, subject)[at] for side, one in alone.items()}
    return found


class CalibrationRun(ReferenceRun):
    """Queries, keys and values of every layer on calibration windows, of the 16-bit run.

    Arrays: L layers, W windows, H KV heads, T prefix tokens, P tail tokens: `keys`, `values` [L, W, H, T, D],
    `tail_keys`, `tail_values` [L, W, H, P, D], `queries` float32 [L, W, Hq, P, D].
    """

    kind = "calibration"
    settings = {"windows": WINDOWS, "tail": TAIL}  # noqa: RUF012

    @classmethod
    def write(cls, spec: TrialSpec, subject: ModelUnderTest, writer: CaptureWriter) -> None:
        """Read calibration windows in 16 bit in two chunks, and write down what attention was given."""
        tokens = subject.windows(spec, spec.context, WINDOWS, split="calibration")
        prefix = spec.context - min(TAIL, spec.context // 2)
        forward = subject.forward
        caches = make_cache(subject.loaded.model, traced=subject.traced)
        recorders = []
        for chunk in (tokens[:, :prefix], tokens[:, prefix:]):
            recorders.append(AttentionRecorder(subject.info.kv_layers))
            with attention.record(recorders[-1]):
                forward.logits(chunk, caches, scored=(0,))
        for start, recorder in zip(("", "tail_"), recorders, strict=True):
            for side, layers in (("keys", recorder.keys), ("values", recorder.values)):
                save_layers(writer, start + side, [parts[0] for parts in layers])
        save_layers(writer, "queries", recorders[-1].queries)
        writer.facts |= recorders[-1].facts

    @cached_property
    def given(self) -> list[LayerInputs]:
        """What attention of every layer was given."""
        return list(self.layers(self.subject.info.kv_layers))

    @cached_property
    def magnitudes(self) -> dict[Side, list[Magnitudes]]:
        """How large the channels of every layer are."""
        sides: tuple[Side, Side] = ("key", "value")
        return {side: [magnitudes(side, given) for given in self.given] for side in sides}

    @cached_property
    def _placed(self) -> list[LayerInputs]:
        return [given.placed() for given in self.given]

    @cached_property
    def exact(self) -> list[Array]:
        """Attention output of every layer in 16 bit."""
        return self.attend(KVSpec())

    def attend(self, kv: KVSpec, seed: int = 0, candidates: Sequence[LayerFactors] = ({},)) -> list[Array]:
        """Attention output of every layer [W, C Hq, P, D] over caches of a specification with C candidates' factors.

        Numpy's on the CPU, MLX's on a GPU, which attends with all candidates at once: a launch takes longer there than
        what it computes.
        """
        subject = self.subject
        made = make_cache(subject.loaded.model, kv, seed=seed, factors=candidates[0] or None, traced=subject.traced)
        caches = [_side_by_side(cache, candidates) for cache in packed_layers(made)]
        placed = [given.repeated(len(candidates)) for given in self._placed]
        # A GPU checks what was appended one call later: when all prefixes are there, no layer waits for the one before.
        append(caches, [given.keys for given in placed], [given.values for given in placed])
        output = attend if arrays.on_host() else attention_output
        return [output(given, cache) for given, cache in zip(placed, caches, strict=True)]

    def errors(self, kv: KVSpec, seed: int, groups: Sequence[Sequence[LayerFactors]]) -> NDArray[np.float64]:
        """Relative error of the attention output per candidate and layer [C, L]; a group shares its clip ratios."""
        if arrays.on_host() or kv.key_bias == "subtract":  # the known part is that of one set of heads
            groups = [[one] for group in groups for one in group]
        found = [self._errors(kv, seed, group) for group in groups]
        return np.concatenate([np.array(one, np.float64) for one in found])  # a GPU is waited for once

    def _errors(self, kv: KVSpec, seed: int, candidates: Sequence[LayerFactors]) -> Array:
        """The same of candidates side by side; a GPU has only begun to compute them."""
        pairs = list(zip(self.attend(kv, seed, candidates), self.exact, strict=True))
        if arrays.on_host():
            return np.array([[np.linalg.norm(out - exact) / np.linalg.norm(exact) for out, exact in pairs]])
        import mlx.core as mx

        def norms(x: Array) -> Array:
            return mx.sqrt(mx.sum(mx.square(x.astype(mx.float32)), axis=(0, 2, 3, 4)))

        each = [(out.reshape(len(out), len(candidates), *exact.shape[1:]), exact[:, None]) for out, exact in pairs]
        found = mx.stack([norms(out - exact) / norms(exact) for out, exact in each], axis=1)
        mx.async_eval(found)  # type: ignore[no-untyped-call]
        return found


def _side_by_side(cache: PackedKVCache, candidates: Sequence[LayerFactors]) -> PackedKVCache:
    """A cache for the heads of a layer with the factors of every candidate, one set of heads after the other."""
    if len(candidates) == 1:
        return cache
    wide = cache.fresh()
    for side, first in cache.factors.items():
        channels = [candidate[cache.layer][side].channel for candidate in candidates]
        wide.factors[side] = Factors(np.concatenate(channels), first.clip)
    return wide


def calibration_spec(spec: TrialSpec, subject: ModelUnderTest) -> TrialSpec:
    """The trial on whose behalf is calibrated, without what calibration does not depend on."""
    context = min(CONTEXT, subject.info.max_context)
    return spec.model_copy(update={"context": context, "replicate": 0, "logit_gain": 1.0})


def _fitted(side: Side, kv: KVSpec, spec: TrialSpec, subject: ModelUnderTest) -> list[Factors]:
    """Factors of every layer for one side of one specification."""
    calibrated = calibration_spec(spec, subject)
    key = subject.key(calibrated) | {
        "side": side,
        "kv": kv.model_dump_json(),
        "seed": spec.seed,
        "fitting": SCALING_VERSION,
    }

    def write(writer: CaptureWriter) -> None:
        _fit(side, kv, spec.seed, subject.shared(CalibrationRun, calibrated), writer)

    capture = subject.captures.get("factors", key, write)
    return [
        Factors(np.array(channel), float(clip))
        for channel, clip in zip(layer_arrays(capture, "channel"), capture["clip"], strict=True)
    ]


def _fit(side: Side, kv: KVSpec, seed: int, calibration: CalibrationRun, writer: CaptureWriter) -> None:
    """Fit all layers at once; write factors [L, H, D], clip ratios [L] and the errors [L] without and with them."""
    kept = calibration.subject.info.kv_layers

    def by_layer(factors: Sequence[Factors]) -> LayerFactors:
        return {layer: {side: one} for layer, one in zip(kept, factors, strict=True)}

    candidates = [[powers(found, *both) for found in calibration.magnitudes[side]] for both in POWERS[side]]
    plain = [by_layer([Factors(channel) for channel in layers]) for layers in candidates]
    errors = calibration.errors(kv, seed, [plain])
    chosen = [candidates[index][layer] for layer, index in enumerate(errors.argmin(0))]
    closer = [[by_layer([Factors(channel, clip) for channel in chosen])] for clip in CLIPS[1:]]
    clipped = np.vstack([errors.min(0), calibration.errors(kv, seed, closer)])
    save_layers(writer, "channel", chosen)
    writer.save("clip", np.array(CLIPS, np.float32)[np.argmin(clipped, axis=0)])
    writer.save("error_fixed", errors[0])
    writer.save("error_learned", np.min(clipped, axis=0))


def magnitudes(side: Side, given: LayerInputs) -> Magnitudes:
    """How large the channels of a layer are."""
    own = rms(float32_from_file(given.keys if side == "key" else given.values))
    windows, _, _, dim = given.queries.shape
    return own, rms(given.queries.reshape(windows, len(own), -1, dim))


def powers(found: Magnitudes, own: float, query: float) -> Floats:
    """Factors [H, D]: magnitude^own / query magnitude^query, with geometric mean 1 per head."""
    magnitude, queries = found
    log = own * np.log(magnitude) - query * np.log(queries)
    log -= log.mean(-1, keepdims=True)
    return np.exp(np.clip(log, -np.log(MAX_FACTOR_RATIO), np.log(MAX_FACTOR_RATIO))).astype(np.float32)


def rms(vectors: Floats) -> Floats:
    """Root mean square per head and channel [H, D] of vectors [W, H, T, D]; never zero."""
    root = np.sqrt(np.square(vectors).mean((0, 2)))
    least = 1e-4 * root.max(-1, keepdims=True) + np.finfo(np.float32).tiny
    found: Floats = np.maximum(root, least).astype(np.float32)
    return found
