"""Learned scaling: per-channel factors and clip ratios, fitted to the attention output on calibration text.

Candidates for the factors are products of powers of what the channels carry (the family of SmoothQuant, arXiv
2211.10438): keys k / f meet queries q f, so a channel with large keys and small queries can be shrunk for free.
Chosen per layer is what changes the attention output least, through the attention that models run with. Neither the
reconstruction error nor a scored window has a say. Knows no trials' results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swarm.experiments import identity
from swarm.experiments.measurement.attention_error import attend
from swarm.experiments.measurement.calibration import CalibrationSet, plain
from swarm.experiments.measurement.halves import single
from swarm.kernels.cache import make_cache
from swarm.kernels.codec import Factors
from swarm.kernels.quantizers.base import Side
from swarm.kernels.spec import KVSpec, QuantSpec

if TYPE_CHECKING:
    from swarm.experiments.artifacts import Draft
    from swarm.experiments.measurement.attention_error import LayerInputs
    from swarm.experiments.measurement.model_under_test import Subject
    from swarm.experiments.spec import TrialSpec

Floats = NDArray[np.float32]
LayerFactors = dict[int, dict[str, Factors]]

POWERS: dict[Side, tuple[tuple[float, float], ...]] = {
    "key": ((0, 0), (0.5, 0), (1, 0), (0, 0.5), (0.25, 0.25), (0.5, 0.5)),
    "value": ((0, 0), (0.25, 0), (0.5, 0), (0.75, 0), (1, 0)),
}
"""Powers of the channels' own magnitude, and (inverse) of the queries'; the first is no scaling."""
CLIPS = (1.0, 0.95, 0.9, 0.8)
"""Clip ratios; the first is no clipping."""
RANGE = 16.0
"""A factor stays within this ratio of the geometric mean, so that 16-bit types hold what they held."""
KIND = "factors"


def learned(spec: TrialSpec, subject: Subject) -> LayerFactors | None:
    """The factors that a trial's caches need; None when no side has learned scaling.

    Fitted on first use, then read back: keyed by weights, text, versions, side, specification and seed, and by nothing
    else of the trial.

    Raises:
        CorpusError: the text is too short to calibrate on.
        DiskFullError: there is no space to keep them.
    """
    layers = range(subject.info.n_layers) if spec.layers is None else spec.layers
    found: LayerFactors = {}
    for layer in layers:
        kv = spec.kv.at(layer)
        sides: tuple[tuple[Side, QuantSpec], ...] = (("key", kv.key), ("value", kv.value))
        wanted = {side: _alone(side, kv) for side, quant in sides if quant.scaling == "learned"}
        if wanted:
            fits = {side: _fitted(side, alone, spec, subject) for side, alone in wanted.items()}
            found[layer] = {side: fit[layer] for side, fit in fits.items()}
    return found or None


def _alone(side: Side, kv: KVSpec) -> KVSpec:
    """Only this side is quantized, and everything that may be: what one side needs does not depend on the rest."""
    if side == "key":
        return KVSpec(key=kv.key, key_bias=kv.key_bias)
    return KVSpec(value=kv.value)


def _fitted(side: Side, kv: KVSpec, spec: TrialSpec, subject: Subject) -> list[Factors]:
    """Factors of every layer for one side of one specification."""
    key = subject.key(plain(spec, subject)) | {
        "side": side,
        "kv": kv.model_dump_json(),
        "seed": spec.seed,
        "fitting": identity.SCALING_VERSION,
    }
    capture = subject.captures.get(KIND, key, lambda draft: _Fit(side, kv, spec, subject).write(draft))
    return [
        Factors(channel, float(clip))
        for channel, clip in zip(np.array(capture["channel"]), capture["clip"], strict=True)
    ]


class _Fit:
    """The fitting of one side of one specification, all layers at once."""

    def __init__(self, side: Side, kv: KVSpec, spec: TrialSpec, subject: Subject) -> None:
        self.side = side
        self.kv = kv
        self.seed = spec.seed
        self.model = subject.loaded.model
        calibration = subject.shared(CalibrationSet.of, plain(spec, subject))
        self.given = list(calibration.layers())
        self.exact = calibration.exact(lambda: self._attend(KVSpec(), None))

    def write(self, draft: Draft) -> None:
        """Fit, and write down factors [L, H, D], clip ratios [L] and the errors [L] without and with them."""
        candidates = [[powers(self.side, given, *both) for given in self.given] for both in POWERS[self.side]]
        errors = np.array([self._errors([Factors(channel) for channel in layers]) for layers in candidates])
        best = errors.argmin(0)
        chosen = [candidates[index][layer] for layer, index in enumerate(best)]
        clipped = [errors.min(0)]
        clipped += [self._errors([Factors(channel, clip) for channel in chosen]) for clip in CLIPS[1:]]
        draft.save("channel", np.stack(chosen))
        draft.save("clip", np.array(CLIPS, np.float32)[np.argmin(clipped, axis=0)])
        draft.save("error_fixed", errors[0])
        draft.save("error_learned", np.min(clipped, axis=0))

    def _errors(self, factors: Sequence[Factors]) -> NDArray[np.float64]:
        """Relative error of the attention output per layer [L]."""
        outs = self._attend(self.kv, {layer: {self.side: one} for layer, one in enumerate(factors)})
        return np.array(
            [np.linalg.norm(out - exact) / np.linalg.norm(exact) for out, exact in zip(outs, self.exact, strict=True)]
        )

    def _attend(self, kv: KVSpec, factors: LayerFactors | None) -> list[Floats]:
        caches = make_cache(self.model, kv, seed=self.seed, factors=factors)
        return [attend(given, cache) for given, cache in zip(self.given, caches, strict=True)]


def powers(side: Side, given: LayerInputs, own: float, query: float) -> Floats:
    """Factors [H, D]: magnitude^own / query magnitude^query, with geometric mean 1 per head."""
    magnitude = _rms(single(given.keys if side == "key" else given.values))
    windows, _, _, dim = given.queries.shape
    queries = _rms(given.queries.reshape(windows, len(magnitude), -1, dim))
    log = own * np.log(magnitude) - query * np.log(queries)
    log -= log.mean(-1, keepdims=True)
    return np.exp(np.clip(log, -np.log(RANGE), np.log(RANGE))).astype(np.float32)


def _rms(vectors: Floats) -> Floats:
    """Root mean square per head and channel [H, D] of vectors [W, H, T, D]; never zero."""
    root = np.sqrt(np.square(vectors).mean((0, 2)))
    least = 1e-4 * root.max(-1, keepdims=True) + np.finfo(np.float32).tiny
    found: Floats = np.maximum(root, least).astype(np.float32)
    return found
