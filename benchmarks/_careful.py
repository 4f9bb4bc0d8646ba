"""What people write with mlx-lm alone to compare quantized caches: one loop by a careful user, one out of the box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks._decided import Answer, Laps
from numpy.typing import NDArray

from swarm.experiments.measurement.prefill import CHUNK, WINDOWS, scored_positions

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.models.base import ModelInfo
    from swarm.kernels.spec import KVSpec

Floats = NDArray[np.float32]


def careful(info: ModelInfo, configurations: Sequence[KVSpec], context: int, laps: Laps) -> list[Answer]:
    """Load once, float32 on a fast BLAS, the 16-bit run once, the head only where it is scored; then loop."""
    from swarm.kernels import blas

    blas.use_openblas(1)
    model, windows = _loaded(info, context)
    return _loop(model, windows, configurations, laps)


def careful_with_our_activations(
    info: ModelInfo, configurations: Sequence[KVSpec], context: int, laps: Laps
) -> list[Answer]:
    """The same, with our numpy activations in the place of MLX's."""
    from swarm.kernels import blas, elementwise

    blas.use_openblas(1)
    model, windows = _loaded(info, context)
    elementwise.install()
    return _loop(model, windows, configurations, laps)


def _loaded(info: ModelInfo, context: int) -> tuple[Any, NDArray[np.int32]]:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from swarm.experiments.models import registry

    model, _ = load_model(registry.ensure(info.name))
    model.set_dtype(mx.float32)
    return model, _text(info, context)


def _text(info: ModelInfo, context: int) -> NDArray[np.int32]:
    """The windows that a trial on rung 1 reads [W, context]."""
    from mlx_lm.tokenizer_utils import load

    from swarm.experiments.models import registry
    from swarm.experiments.text import Corpus

    tokenizer = load(registry.ensure(info.name))
    return Corpus.open().windows(tokenizer, context + 1, 2 * WINDOWS, bos=info.bos)[1::2, :-1]


def _loop(
    model: Any,
    windows: NDArray[np.int32],
    configurations: Sequence[KVSpec],
    laps: Laps,
) -> list[Answer]:
    from swarm.kernels.errors import SwarmError
    from swarm.kernels.model_cache import make_cache

    reference = [Reference(logits) for logits in _read(model, windows, make_cache(model))]
    laps.ready()
    answers = []
    for kv in configurations:
        caches = make_cache(model, kv)
        try:
            found = [
                part.compare(logits) for part, logits in zip(reference, _read(model, windows, caches), strict=True)
            ]
            kld, same = (np.concatenate([part[i] for part in found], axis=1) for i in range(2))
            answers.append(Answer(float(kld.mean()), float(same.mean()), _bits(caches), list(map(float, kld.mean(1)))))
        except (SwarmError, FloatingPointError):
            answers.append(Answer.none())
        laps.lap()
    return answers


def _read(model: Any, windows: NDArray[np.int32], caches: Sequence[Any]) -> Iterator[Floats]:
    """All windows at once in chunks; yields the logits [W, s, V] of a chunk's scored positions."""
    import mlx.core as mx

    scored = scored_positions(windows.shape[1])
    for start in range(0, windows.shape[1], CHUNK):
        hidden = model.model(mx.array(windows[:, start : start + CHUNK]), list(caches))
        inside = scored[(scored >= start) & (scored < start + CHUNK)] - start
        if len(inside):
            yield np.array(model.model.embed_tokens.as_linear(hidden[:, mx.array(inside)]), copy=False)
        else:
            mx.eval(hidden)


def _bits(caches: Sequence[Any]) -> float:
    for cache in caches:
        cache.release()
    sides = [side for cache in caches for side in cache.sides]
    return float(sum(side.live_nbytes for side in sides) * 8 / sum(side.values for side in sides))


class Reference:
    """What the 16-bit run said at some positions: logits, probabilities and the best token, computed once."""

    def __init__(self, logits: Floats) -> None:
        self.logits = np.array(logits, np.float32)
        self.shape = logits.shape[:2]
        self.norm = np.array([[_norm(row) for row in window] for window in self.logits])
        self.p = np.exp(self.logits - self.norm[..., None].astype(np.float32))
        self.top = self.logits.argmax(-1)

    def compare(self, logits: Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """KLD in nats and whether the best token is the same, per window and position.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        kld = np.empty(self.shape)
        for place in np.ndindex(self.shape):
            row = np.asarray(logits[place], np.float32)
            # KL(p|q) = sum p (a - b) + log sum exp b - log sum exp a, for logits a and b.
            kld[place] = np.dot(self.p[place], self.logits[place] - row) + _norm(row) - self.norm[place]
        if not np.isfinite(kld).all():
            raise FloatingPointError("logits that are not finite")
        return kld, logits.argmax(-1) == self.top


def _norm(row: Floats) -> float:
    """Logarithm of the sum of exponentials."""
    highest = row.max()
    return float(highest + np.log(np.exp(row - highest).sum(dtype=np.float64)))


def out_of_the_box(info: ModelInfo, configurations: Sequence[KVSpec], context: int, laps: Laps) -> list[Answer]:
    """mlx-lm as it comes: its BLAS, its float type, its quantized cache, the 16-bit run anew for each configuration.

    Reads one window: the others would take as long again each.
    """
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.models.cache import make_prompt_cache

    from swarm.experiments.models import registry

    model = mlx_lm.load(str(registry.ensure(info.name)))[0]
    window = mx.array(_text(info, context)[:1])
    positions = scored_positions(context)

    def logits(caches: Sequence[Any]) -> Floats:
        out: mx.array = model(window, list(caches)).astype(mx.float32)
        return np.array(out, copy=False)[:, positions]

    laps.ready()
    answers = []
    for kv in configurations:
        reference = Reference(logits(make_prompt_cache(model)))
        size, bits = int(kv.key.group_size or 0), int(kv.key.bits or 0)
        caches = [cache.to_quantized(size, bits) for cache in make_prompt_cache(model)]
        kld, same = reference.compare(logits(caches))
        # Codes, and a scale and an offset of the model's 16-bit type for each group.
        answers.append(Answer(float(kld.mean()), float(same.mean()), bits + 32 / size, [float(kld.mean())]))
        laps.lap()
    return answers
