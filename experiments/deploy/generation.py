"""Generates text with a given cache and says what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.experiments.models.base import LoadedModel


@dataclass(frozen=True)
class Generated:
    """One run: the new tokens, the bytes that the cache held at the end and the time.

    `prefill_seconds` end with the first new token, `decode_seconds` run from there to the last one.
    """

    tokens: tuple[int, ...]
    text: str
    prompt_tokens: int
    cache_bytes: int
    bits_per_value: float
    prefill_seconds: float
    decode_seconds: float

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds

    @property
    def decode_rate(self) -> float | None:
        """New tokens per second after the first; None when there was one only."""
        count = len(self.tokens) - 1
        return count / self.decode_seconds if count > 0 and self.decode_seconds > 0 else None


def encode(loaded: LoadedModel, prompt: str, *, chat: bool | None = None) -> list[int]:
    """Token ids of a prompt.

    Args:
        loaded: the model.
        prompt: the text.
        chat: put it into the model's chat template; None does so when there is one.

    Raises:
        UsageError: there is no template, or the prompt is empty.
    """
    tokenizer: Any = loaded.tokenizer
    template = tokenizer.has_chat_template
    if chat and not template:
        raise UsageError(f"{loaded.info.name} has no chat template.", "Leave out --chat.")
    if template and chat is not False:
        return list(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True))
    tokens = list(tokenizer.encode(prompt))
    if loaded.info.bos and tokenizer.bos_token_id is not None and tokens[:1] != [tokenizer.bos_token_id]:
        tokens.insert(0, tokenizer.bos_token_id)
    if not tokens:
        raise UsageError("the prompt is empty.", "Give some text.")
    return tokens


def generate(
    loaded: LoadedModel,
    caches: Sequence[Any],
    prompt: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Generated:
    """Generate up to `max_tokens` tokens after a prompt.

    Args:
        loaded: the model.
        caches: one per layer, empty.
        prompt: token ids.
        max_tokens: how many at most.
        temperature: 0 is greedy.
        seed: decides the sampling.
        say: is given every piece of text as it comes.
    """
    import mlx.core as mx
    from mlx_lm import stream_generate
    from mlx_lm.sample_utils import make_sampler

    mx.random.seed(seed)
    started = time.perf_counter()
    pieces, tokens, arrivals = [], [], []
    sampler = make_sampler(temp=temperature)
    for answer in stream_generate(
        loaded.model, loaded.tokenizer, list(prompt), max_tokens, sampler=sampler, prompt_cache=list(caches)
    ):
        arrivals.append(time.perf_counter() - started)
        tokens.append(int(answer.token))
        pieces.append(answer.text)
        if say is not None:
            say(answer.text)
    return Generated(
        tokens=tuple(tokens),
        text="".join(pieces),
        prompt_tokens=len(prompt),
        cache_bytes=sum(int(cache.nbytes) for cache in caches),
        bits_per_value=bits(caches),
        prefill_seconds=arrivals[0],
        decode_seconds=arrivals[-1] - arrivals[0],
    )


def warm_up(loaded: LoadedModel, caches: Sequence[Any], prompt: Sequence[int]) -> None:
    """Run a few tokens through caches that are thrown away, so that kernels are compiled before anything is timed."""
    import mlx.core as mx

    for part in (prompt[:8], prompt[:1]):
        mx.eval(loaded.model(mx.array([list(part)]), cache=list(caches)))


def bits(caches: Sequence[Any]) -> float:
    """Bits per stored value over all keys and values: what packed caches say, else what mlx-lm's arrays take."""
    from swarm.kernels.model_cache import all_caches

    stored = values = 0.0
    for cache in all_caches(caches):
        for bits_each, count in _contents(cache):
            stored, values = stored + bits_each * count, values + count
    return stored / values if values else 0.0


def _contents(cache: Any) -> Iterator[tuple[float, int]]:
    from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache

    from swarm.kernels.cache import PackedKVCache

    if isinstance(cache, PackedKVCache):
        yield cache.bits_per_value(), sum(side.values for side in cache.sides)
    elif isinstance(cache, KVCache | RotatingKVCache | ChunkedKVCache) and not cache.empty():
        for array in (cache.keys, cache.values):
            yield 8.0 * array.itemsize, array.size


def sixteen_bit(model: Any) -> list[Any]:
    """The 16-bit cache to compare with: mlx-lm's own, or ours where mlx-lm's would hold the float32 of the CPU."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.cache import make_prompt_cache

    from swarm.kernels.model_cache import make_cache

    wide = any(array.dtype == mx.float32 for _, array in tree_flatten(model.parameters()))
    return list(make_cache(model)) if wide else list(make_prompt_cache(model))
