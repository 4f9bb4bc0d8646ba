"""The small models of mlx-lm's families: each runs, and with its own cache gives what one pass gives."""

import numpy as np
import pytest
from families import build as small
from families.build import build, families, logits, text, uncompiled
from families.small import WINDOW
from mlx_lm.models.cache import make_prompt_cache

from swarm.kernels.errors import ModelError

PROMPT, CHUNKS, STEPS = 13, [5, 5, 3], 5
"""Tokens of the prompt, how they are fed, and the tokens that follow one by one: two windows are crossed."""

ROUNDING = 3e-4
"""Of the logits' spread: float32 sums in another order, through up to six layers."""

COARSE = {"deepseek_v41": 5e-2, "muse_spark": 1e-2}
"""Families that round by themselves: latents to 8 and 4 bits, the last states to bfloat16."""

OTHERWISE = {
    "olmo": "it adds its mask to the scores, and mlx-lm's masks are a word now: a prompt of several tokens fails",
    "phi3small": "its blockwise layers add a mask of yes and no to the scores, so that a prompt sees its own future",
    "plamo3": "its windows are one token wider than what its cache keeps",
}
"""Families with faults of their own in this mlx-lm."""


@pytest.fixture(autouse=True)
def _uncompiled():
    with uncompiled():
        yield


@pytest.fixture(params=families())
def family(request):
    if request.param in OTHERWISE:
        request.applymarker(pytest.mark.xfail(reason=OTHERWISE[request.param], strict=True))
    return request.param


def test_chunks_and_steps_are_one_pass(family):
    model, tokens = build(family), text(3, PROMPT + STEPS)
    whole = logits(model, make_prompt_cache(model), tokens, [PROMPT + STEPS])
    assert np.isfinite(whole).all()
    bound = COARSE.get(family, ROUNDING) * whole.std()
    for batch in (1, 3):
        parts = logits(model, make_prompt_cache(model), tokens[:batch], CHUNKS + [1] * STEPS)
        assert np.abs(parts - whole[:batch]).max() < bound
    # What the tests compare depends on what is stored: other tokens before the last one change the last logits.
    tokens[:, :-1] = text(3, PROMPT + STEPS - 1, 1)
    other = logits(model, make_prompt_cache(model), tokens, [PROMPT + STEPS])
    assert np.abs(other[:, -1] - whole[:, -1]).mean() > 0.02 * whole.std()


def test_another_seed_is_another_model():
    tokens = text(1, 5)
    first, second = (
        logits(model, make_prompt_cache(model), tokens, [5]) for model in (build("llama", 1), build("llama", 2))
    )
    assert np.abs(first - second).mean() > 0.5 * first.std()


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "olmo3", "deepseek_v3"])
def test_a_family_that_nobody_has_written_down(family, monkeypatch):
    """What a new mlx-lm brings is built from its arguments alone, with layers of more than one kind if it has them."""
    monkeypatch.delitem(small.WRITTEN, family)
    model = build(family, seed=5)
    caches = make_prompt_cache(model)
    assert np.isfinite(logits(model, caches, text(1, 20), [20])).all()
    assert len(caches) == 4
    windows = [cache.max_size for cache in caches if type(cache).__name__ == "RotatingKVCache"]
    assert windows == ([] if family in ("qwen3_moe", "deepseek_v3") else [WINDOW, WINDOW])


def test_one_that_needs_more_says_so(monkeypatch):
    monkeypatch.delitem(small.WRITTEN, "openelm")
    with pytest.raises(ModelError, match=r"small openelm model.*ffn_multipliers") as raised:
        build("openelm", seed=5)
    assert "configuration of openelm" in raised.value.remedy
