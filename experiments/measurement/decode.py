"""The cheap trial: prefixes read once in 16 bit, then quantized, and the next tokens decoded over them.

What all trials of a model and context share is captured once: keys and values of the prefixes, queries and hidden
states behind them, and the 16-bit run's logits. Knows models, caches and captures; knows no metrics' names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence, halves
from swarm.experiments.measurement.attention_error import LayerInputs
from swarm.experiments.measurement.forward import Entry, Watch
from swarm.experiments.measurement.learned_scaling import learned
from swarm.experiments.measurement.listening import Listener
from swarm.experiments.measurement.noise import Prefix, floor
from swarm.kernels import arrays, attention
from swarm.kernels.cache import make_cache
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.artifacts import Capture, Draft
    from swarm.experiments.measurement.model_under_test import Subject
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.cache import PackedKVCache

WINDOWS = 4
TAIL = 32
TOP = 512
CHUNK = 128
KIND = "decode"


def tail_tokens(context: int) -> int:
    """Tokens at the end of a window that are decoded; the rest is the prefix."""
    return min(TAIL, context // 2)


@dataclass(frozen=True)
class Decoded:
    """What a run said: scores against the 16-bit run, and the caches as they are after it."""

    scores: divergence.Scores
    caches: list[PackedKVCache]


class DecodeSet:
    """The prefixes of one model, context, replicate and logit gain, and what the 16-bit run made of their tails.

    Arrays: L layers, W windows, H KV heads, T prefix tokens, P tail tokens. `keys`, `values` [L, W, H, T, D];
    `tail_keys`, `tail_values` [L, W, H, P, D]; `queries` float32 [L, W, Hq, P, D]; `hidden` float32 [L, W, P, width]
    after each layer; `tokens` [W, P]; `union` the scored tokens; `logits` float32 [W, P, union]; `targets` [W, P].
    """

    def __init__(self, capture: Capture, subject: Subject) -> None:
        self.capture = capture
        self.subject = subject
        self.tokens, self.targets, self.union = (np.array(capture[name]) for name in ("tokens", "targets", "union"))
        self.logits = np.array(capture["logits"])

    @classmethod
    def of(cls, spec: TrialSpec, subject: Subject) -> DecodeSet:
        """The set that a trial needs, captured now if nobody did before.

        Raises:
            CorpusError: the text is too short.
            DiskFullError: there is no space for the capture.
            NonFiniteError: the 16-bit run itself is not finite.
        """
        key = subject.key(spec) | {"windows": WINDOWS, "tail": TAIL, "top": TOP}
        return cls(subject.captures.get(KIND, key, lambda draft: _Capturing(spec, subject).write(draft)), subject)

    @property
    def prefix(self) -> int:
        """Tokens of a prefix."""
        return int(self.capture.facts["prefix"])

    @property
    def noise_kld(self) -> Sequence[float]:
        """Divergence per window between two 16-bit runs (see `noise`), nats."""
        return tuple(self.capture.facts["noise_kld"])

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        windows, positions, tokens = self.logits.shape
        return (
            f"{windows} windows of {self.prefix + positions} tokens, the last {positions} scored "
            f"over the {tokens} tokens that are among the 16-bit run's {TOP} likeliest anywhere"
        )

    @property
    def scored_queries(self) -> str:
        """Which queries attend, in words."""
        windows, positions, _ = self.logits.shape
        return f"{windows} windows of {self.prefix + positions} tokens, the last {positions} attend"

    def layers(self, numbers: Iterable[int]) -> Iterator[LayerInputs]:
        """What attention of some layers was given in the 16-bit run, one layer after the other."""
        names = ("keys", "values", "tail_keys", "tail_values", "queries")
        whole = [self.capture[name] for name in names]
        for number in numbers:
            keys, values, tail_keys, tail_values, queries = (array[number] for array in whole)
            scale = self.capture.facts["scales"][number]
            yield LayerInputs(keys, values, tail_keys, tail_values, queries, scale)

    @cached_property
    def _vocabulary(self) -> mx.array:
        return self.subject.forward.rows(self.union)

    def caches(self, spec: TrialSpec) -> list[PackedKVCache]:
        """One cache per layer with the prefixes in it, quantized as the trial says."""
        caches = gained_caches(self.subject, spec)
        for cache, keys, values in zip(caches, self.capture["keys"], self.capture["values"], strict=True):
            cache.append(halves.from_file(keys), halves.from_file(values))
        return caches

    def run(self, spec: TrialSpec, watch: Watch | None = None) -> Decoded:
        """Decode the tails over the quantized prefixes.

        Args:
            spec: the trial.
            watch: called with the number and the output of every layer from the first quantized one on.

        Raises:
            NonFiniteError: the run broke down.
        """
        caches, entry = self.caches(spec), self._entry(spec)
        logits = self.subject.forward.logits(self.tokens, caches, vocabulary=self._vocabulary, entry=entry, watch=watch)
        if entry is not None:
            self._complete(caches[: entry.layer])
        return Decoded(divergence.compare(self.logits, logits, self.targets), caches)

    def _complete(self, skipped: Sequence[PackedKVCache]) -> None:
        """Layers that were skipped hold what they would: storage is counted over all of them."""
        for cache, keys, values in zip(skipped, self.capture["tail_keys"], self.capture["tail_values"], strict=False):
            cache.append(halves.from_file(keys), halves.from_file(values))

    def _entry(self, spec: TrialSpec) -> Entry | None:
        """Where the run first differs from the 16-bit run: what lies before is known."""
        first = spec.layers[0] if spec.layers else 0
        if not first or not self.capture.facts["enterable"]:
            return None
        import mlx.core as mx

        hidden = mx.array(np.array(self.capture["hidden"][first - 1]))
        return Entry(first, hidden.astype(getattr(mx, self.capture.facts["compute"])))


def gained_caches(subject: Subject, spec: TrialSpec) -> list[PackedKVCache]:
    """Empty caches of a trial, with its logit gain and the learned factors that it needs."""
    factors = learned(spec, subject)
    caches = make_cache(subject.loaded.model, spec.kv, seed=spec.seed, factors=factors)
    for cache in caches:
        cache.logit_gain = spec.logit_gain
    return caches


class _Capturing:
    """The making of one set."""

    def __init__(self, spec: TrialSpec, subject: Subject) -> None:
        self.context = spec.context
        self.prefix = spec.context - tail_tokens(spec.context)
        self.subject = subject
        self.plain = spec.model_copy(update={"kv": KVSpec()})
        self.forward = subject.forward
        text = subject.windows(spec, spec.context + 1, 2 * WINDOWS)[::2]
        self.text, self.targets = text[:, :-1], text[:, self.prefix + 1 :]
        self.tail = self.text[:, self.prefix :]

    def write(self, draft: Draft) -> None:
        """Run the model in 16 bit and write down what it did."""
        read = Listener(len(self.forward.layers))
        whole = self._read(read)
        union = _union(whole, self.targets)
        vocabulary = self.forward.rows(union)
        keys, values = (self._prefixes(side) for side in (read.keys, read.values))
        hidden: dict[int, mx.array] = {}
        decoded = Listener(len(self.forward.layers))
        with attention.record(decoded):
            logits = self._decode(keys, values, vocabulary, None, hidden.__setitem__)
        targets = np.searchsorted(union, self.targets)
        prefix = Prefix(keys, values, hidden[0].dtype)
        noise = floor(self.subject, self.tail, targets, prefix=prefix, vocabulary=vocabulary)
        middle = len(self.forward.layers) // 2
        half_way = self._decode(keys, values, vocabulary, Entry(middle, hidden[middle - 1]), None) if middle else None

        tails = ([parts[0] for parts in sides] for sides in (decoded.keys, decoded.values))
        for name, layers in zip(("keys", "values", "tail_keys", "tail_values"), (keys, values, *tails), strict=True):
            draft.stream(name, (len(layers), *layers[0].shape), layers[0].dtype, layers)
        draft.save("queries", np.stack(decoded.queries))
        states = [np.array(arrays.to_numpy(hidden[layer]), np.float32) for layer in range(len(self.forward.layers))]
        draft.save("hidden", np.stack(states))
        for name, array in (("tokens", self.tail), ("targets", targets), ("union", union)):
            draft.save(name, array.astype(np.int32))
        draft.save("logits", logits)
        draft.facts |= {
            "prefix": self.prefix,
            "noise_kld": noise,
            "enterable": half_way is not None and bool(np.array_equal(half_way, logits)),
            "scales": decoded.scales,
            "compute": str(hidden[0].dtype).rpartition(".")[2],
        }

    def _read(self, listener: Listener) -> NDArray[np.float32]:
        """All tokens in chunks; logits of the tail over the whole vocabulary [W, P, V]."""
        caches = gained_caches(self.subject, self.plain)
        found = []
        with attention.record(listener):
            for start in range(0, self.context, CHUNK):
                chunk = self.text[:, start : start + CHUNK]
                scored = range(max(0, self.prefix - start), chunk.shape[1])
                found.append(self.forward.logits(chunk, caches, scored=scored))
        return np.concatenate(found, axis=1)

    def _prefixes(self, sides: list[list[NDArray[Any]]]) -> list[NDArray[Any]]:
        return [np.ascontiguousarray(np.concatenate(side, axis=2)[:, :, : self.prefix]) for side in sides]

    def _decode(
        self,
        keys: list[NDArray[Any]],
        values: list[NDArray[Any]],
        vocabulary: mx.array,
        entry: Entry | None,
        watch: Watch | None,
    ) -> NDArray[np.float32]:
        caches = gained_caches(self.subject, self.plain)
        for cache, k, v in zip(caches, keys, values, strict=True):
            cache.append(halves.from_file(k), halves.from_file(v))
        return self.forward.logits(self.tail, caches, vocabulary=vocabulary, entry=entry, watch=watch)


def _union(logits: NDArray[np.float32], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """The tokens that are among the likeliest at any position, and the true ones; sorted."""
    size = logits.shape[-1]
    chosen = np.zeros(size, np.bool_)
    chosen[targets.reshape(-1)] = True
    for row in logits.reshape(-1, size):
        chosen[np.argpartition(row, max(0, size - TOP))[-TOP:]] = True
    return np.flatnonzero(chosen)
