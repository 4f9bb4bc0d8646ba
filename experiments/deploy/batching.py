"""Whether mlx-lm can answer several requests of a model at once, over the caches that the model makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LENGTHS = (3, 7)  # of the prompts that are tried
MAX_APART = 0.25  # of the spread of the logits: far above what other shapes of products and turned codes change


def refusal(model: Any) -> str | None:
    """Why requests have to be answered one at a time, None where they need not.

    Two short prompts of different length run alone and as a batch, each followed by one more token.
    """
    from mlx_lm.models.cache import make_prompt_cache

    caches = make_prompt_cache(model)
    alone = next((type(cache).__name__ for cache in caches if not callable(getattr(cache, "merge", None))), None)
    if alone is not None:
        return f"mlx-lm has no batches of {alone}"
    try:
        apart = _apart(model)
    except Exception as error:  # every family has its own code
        return f"a trial batch failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None if apart <= MAX_APART else "a trial batch gave other logits than its prompts alone"


def _apart(model: Any) -> float:
    """How far the logits of a batch are from those of its prompts alone, as a share of their spread."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    texts = [list(range(1, length + 1)) for length in LENGTHS]
    singles = [make_prompt_cache(model) for _ in texts]
    merged = [layer[0].merge(list(layer)) for layer in zip(*singles, strict=True)]
    padding = [max(LENGTHS) - length for length in LENGTHS]
    for cache in merged:
        cache.prepare(lengths=list(LENGTHS), right_padding=padding)
    mx.eval(model(mx.array([text + [0] * missing for text, missing in zip(texts, padding, strict=True)]), cache=merged))
    for cache in merged:
        cache.finalize()
    last = mx.array([[text[-1] + 1] for text in texts])
    together = model(last, cache=merged)[:, -1]
    wanted = mx.concatenate([_alone(model, text, last[i : i + 1]) for i, text in enumerate(texts)])
    return float(np.array(mx.abs(together - wanted).max() / mx.std(wanted)))


def _alone(model: Any, text: Sequence[int], last: Any) -> Any:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches = make_prompt_cache(model)
    mx.eval(model(mx.array([list(text)]), cache=caches))
    return model(last, cache=caches)[:, -1]
