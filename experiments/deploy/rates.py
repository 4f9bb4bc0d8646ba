"""How fast requests are answered: each as its client sees it, and a decode step beside the same step over 16 bit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.experiments.deploy import generation

if TYPE_CHECKING:
    from swarm.experiments.models.base import LoadedModel

CONTEXTS = (1024, 8192)  # tokens held, at which decode steps are timed
PASSAGE_TOKENS = 64  # of which keys and values are computed once and then repeated
STEPS = 5  # that are timed, after one that compiles kernels
NOISE = 1.05  # 16 bit is called faster from this ratio on


@dataclass
class RequestTimes:
    """One request, timed from when it came in; what is not known yet is None or 0."""

    context: Any = None  # mlx-lm's record of the request
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None  # seconds until the first token
    last: float = 0.0
    tokens: int = 0

    def over(self, answer: Iterable[Any], ended: Callable[[RequestTimes], None]) -> Iterator[Any]:
        """Pass an answer on token by token; `ended` is told when it is complete or its client has left."""
        try:
            for piece in answer:
                self.last = time.perf_counter() - self.started
                self.first = self.last if self.first is None else self.first
                self.tokens += 1
                yield piece
        finally:
            ended(self)

    @property
    def cached(self) -> int:
        """Prompt tokens that were found in the cache of an earlier request."""
        return max(0, int(self.context.prompt_cache_count))

    @property
    def prompt(self) -> int:
        """Prompt tokens that were computed."""
        return len(self.context.prompt) - self.cached

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens computed per second until the first token, waiting included."""
        return self.prompt / self.first if self.first else 0.0

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first; None when there was one only."""
        seconds = self.last - (self.first or 0.0)
        return (self.tokens - 1) / seconds if self.tokens > 1 and seconds > 0 else None

    def timings(self, beside: DecodeTimes | None) -> dict[str, Any]:
        """What a reply says of it, by the names of llama-server's `timings`; with how fast 16 bit would decode."""
        held = len(self.context.prompt) + self.tokens
        found = {
            "cache_n": self.cached,
            "prompt_n": self.prompt,
            "prompt_ms": 1e3 * (self.first or 0.0),
            "prompt_per_second": self.prefill_rate,
            "predicted_n": self.tokens,
            "predicted_ms": 1e3 * (self.last - (self.first or 0.0)),
            "predicted_per_second": self.decode_rate,
        }
        return found if beside is None else {**found, "sixteen_bit_speedup": beside.sixteen_bit_speedup(held)}

    def line(self, beside: DecodeTimes | None) -> str:
        """It in one line for people."""
        decode = "" if self.decode_rate is None else f" at {self.decode_rate:.3g} tok/s"
        cached = f" and {self.cached:,} from the cache" if self.cached else ""
        text = f"{self.prompt:,} prompt tokens at {self.prefill_rate:.3g} tok/s{cached}, {self.tokens:,} new{decode}"
        faster = 0.0 if beside is None else beside.sixteen_bit_speedup(len(self.context.prompt) + self.tokens)
        return f"{text}; 16 bit would decode {faster:.2g}x as fast." if faster >= NOISE else f"{text}."


@dataclass(frozen=True)
class DecodeTimes:
    """Seconds of a decode step of one sequence at some contexts: over packed caches and over 16 bit."""

    contexts: tuple[int, ...]
    packed: tuple[float, ...]
    sixteen_bit: tuple[float, ...]

    def sixteen_bit_speedup(self, context: int) -> float:
        """How many times as fast 16 bit decodes at a context, linear in between and constant beyond what was timed."""
        packed, plain = (np.interp(context, self.contexts, times) for times in (self.packed, self.sixteen_bit))
        return float(packed / plain)

    def lines(self, label: str) -> Iterator[str]:
        """The result for people, one line per context."""
        for context, ours, plain in zip(self.contexts, self.packed, self.sixteen_bit, strict=True):
            said = " 16 bit is faster here." if ours / plain >= NOISE else ""
            yield (
                f"Decode at {context:,} tokens of context: {1 / ours:.3g} tok/s with {label}, "
                f"{1 / plain:.3g} with 16 bit.{said}"
            )


def decode_times(loaded: LoadedModel, make: Callable[[], Sequence[Any]]) -> DecodeTimes:
    """Time decode steps over caches and over 16 bit.

    A short passage is computed once; its keys and values are repeated until a cache holds so many tokens, which takes a
    small part of the time that a prompt of that length would.

    Args:
        loaded: the model.
        make: makes the packed caches, one per layer, empty.
    """
    limit = loaded.info.max_context or max(CONTEXTS)
    contexts = tuple(sorted({min(context, limit - STEPS - 1) for context in CONTEXTS}))
    found: dict[bool, list[float]] = {True: [], False: []}
    for context in contexts:
        for packed in (True, False):
            caches = make() if packed else generation.sixteen_bit(loaded.model)
            _fill(loaded.model, make(), caches, context)
            found[packed].append(_step(loaded.model, caches))
    return DecodeTimes(contexts, tuple(found[True]), tuple(found[False]))


def _step(model: Any, caches: Sequence[Any]) -> float:
    """Seconds of a decode step, the median of some."""
    import mlx.core as mx

    token, times = mx.array([[1]]), []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        token = mx.argmax(model(token, cache=list(caches))[:, -1:], axis=-1)
        mx.eval(token)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _fill(model: Any, packed: Sequence[Any], caches: Sequence[Any], tokens: int) -> None:
    """Give caches so many tokens: keys and values of a passage, again and again, where `packed` has a packed cache."""
    import mlx.core as mx

    from swarm.kernels import attention
    from swarm.kernels.cache import PackedKVCache
    from swarm.kernels.model_cache import all_caches

    calls: list[attention.Recorded] = []
    with attention.record(calls.append):
        mx.eval(model(mx.arange(1, PASSAGE_TOKENS + 1)[None], cache=list(packed)))
    passage = {call.layer: call for call in calls}
    for kind, cache in zip(all_caches(packed), all_caches(caches), strict=True):
        if isinstance(kind, PackedKVCache):
            given = passage[kind.layer]
            repeats = -(-tokens // PASSAGE_TOKENS)
            cache.update_and_fetch(*(mx.tile(x, (1, 1, repeats, 1))[:, :, :tokens] for x in (given.keys, given.values)))
            mx.eval(cache.state)
