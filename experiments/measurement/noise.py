"""The noise floor: how far two 16-bit runs of a model are apart that ought to say the same.

One goes through our cache and attention, the other through the model's own (mlx-lm's caches, MLX's attention), which
rounds elsewhere: keys and values of new tokens are not rounded to 16 bit. Cutting the text into other chunks is no
measure: our attention gives each query the same bits however many come at once. Neither is a bound for low-bit runs,
which amplify rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence, halves
from swarm.kernels.cache import make_cache

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.measurement.model_under_test import Subject


@dataclass(frozen=True)
class Prefix:
    """16-bit keys and values per layer that lie before the tokens, and the type that the model computes in."""

    keys: Sequence[NDArray[Any]]
    values: Sequence[NDArray[Any]]
    compute: mx.Dtype


def floor(
    subject: Subject,
    tokens: NDArray[np.integer],
    targets: NDArray[np.integer],
    *,
    prefix: Prefix | None = None,
    scored: Sequence[int] | None = None,
    vocabulary: mx.array | None = None,
) -> list[float]:
    """Divergence per window of the two runs, nats.

    Both run without logit gain: the model's own attention has none.

    Args:
        subject: the model.
        tokens: what is read [windows, tokens].
        targets: index of the true next token at every scored position [windows, positions].
        prefix: what lies before the tokens.
        scored: scored positions; None means all.
        vocabulary: rows of the head that are scored; None means all.
    """
    from mlx_lm.models.cache import make_prompt_cache

    model = subject.loaded.model
    logits = []
    for caches in (make_cache(model), make_prompt_cache(model)):
        if prefix is not None:
            for cache, keys, values in zip(caches, prefix.keys, prefix.values, strict=True):
                cache.update_and_fetch(*(_computed(x, prefix.compute) for x in (keys, values)))
        logits.append(subject.forward.logits(tokens, caches, scored=scored, vocabulary=vocabulary))
    return [float(value) for value in divergence.compare(logits[0], logits[1], targets).kld.mean(-1)]


def _computed(x: NDArray[Any], kind: mx.Dtype) -> mx.array:
    import mlx.core as mx

    return mx.array(halves.from_file(x)).astype(kind)
