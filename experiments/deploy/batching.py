"""How many requests of a model mlx-lm can answer at once, over the caches that the model makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_ANSWERS = 32  # that are written together
MAX_PROMPTS = 8  # that are read together
LENGTHS = (3, 7)  # of the prompts that are tried
MAX_APART = 0.25  # of the spread of the logits: far above what other shapes of products and turned codes change


@dataclass(frozen=True)
class Limits:
    """How many prompts are read and answers written together; `reason` says why it is one, where it is."""

    prompts: int
    answers: int
    reason: str = ""


def limits(model: Any) -> Limits:
    """What a trial shows: two short prompts of different length alone and as a batch, each with one more token.

    Prompts that are read together are padded to one length, which not every family can do: then they are read one
    after another, and only their answers are written together.
    """
    from mlx_lm.models.cache import make_prompt_cache

    alone = [type(cache).__name__ for cache in make_prompt_cache(model) if not callable(getattr(cache, "merge", None))]
    if alone:
        return Limits(1, 1, f"mlx-lm has no batches of {alone[0]}")
    padded = _trial(model, padded=True)
    if padded is None:
        return Limits(MAX_PROMPTS, MAX_ANSWERS)
    unpadded = _trial(model, padded=False)
    return Limits(1, MAX_ANSWERS if unpadded is None else 1, unpadded or padded)


def _trial(model: Any, *, padded: bool) -> str | None:
    """Why a batch fails, None if it does not."""
    try:
        apart = _apart(model, padded=padded)
    except Exception as error:  # every family has its own code
        return f"a trial batch failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    kind = "a trial batch of padded prompts" if padded else "a trial batch"
    return None if apart <= MAX_APART else f"{kind} gave other logits than its prompts alone"


def _apart(model: Any, *, padded: bool) -> float:
    """How far the logits of a batch are from those of its prompts alone, as a share of their spread."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    texts = [list(range(1, length + 1)) for length in LENGTHS]
    last = mx.array([[text[-1] + 1] for text in texts])
    wanted = mx.concatenate([model(last[i : i + 1], cache=_read(model, text))[:, -1] for i, text in enumerate(texts)])
    singles = [make_prompt_cache(model) if padded else _read(model, text) for text in texts]
    merged = [layer[0].merge(list(layer)) for layer in zip(*singles, strict=True)]
    if padded:
        padding = [max(LENGTHS) - length for length in LENGTHS]
        for cache in merged:
            cache.prepare(lengths=list(LENGTHS), right_padding=padding)
        rows = [text + [0] * missing for text, missing in zip(texts, padding, strict=True)]
        mx.eval(model(mx.array(rows), cache=merged))
        for cache in merged:
            cache.finalize()
    together = model(last, cache=merged)[:, -1]
    return float(np.array(mx.abs(together - wanted).max() / mx.std(wanted)))


def _read(model: Any, text: Sequence[int]) -> list[Any]:
    """Caches that hold a text."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches: list[Any] = make_prompt_cache(model)
    mx.eval(model(mx.array([list(text)]), cache=caches))
    return caches
