"""The cheap trial: prefixes read once in 16 bit, then quantized, and the next tokens decoded over them.

What all trials of a model and context share is captured once: keys and values of the prefixes, queries and hidden
states behind them, the states of caches that are not packed, and the 16-bit run's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.edited_capture import EditedCapture
from swarm.experiments.measurement.forward import Entry, Watch
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.measurement.reference_run import (
    ATTENTION_INPUTS,
    AttentionRecorder,
    Prefix,
    ScoredRun,
    append,
    in_16_bit,
    layer_arrays,
    noise_floor,
    save_layers,
    window_count,
)
from swarm.experiments.measurement.states import State, save_states, states_of
from swarm.kernels import arrays, attention
from swarm.kernels.model_cache import other_caches, packed_layers

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.artifacts import Capture, CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec

WINDOWS = 4
"""Text windows of a trial at the usual context."""
TAIL = 32
"""Last tokens of a window, which are decoded over the quantized cache and scored."""
TOP = 512
"""How many of the likeliest tokens of the 16-bit run are compared, at each position."""
CHUNK, DEVICE_CHUNK = 128, 1024
"""Tokens of the 16-bit prefill that are read at a time, on the CPU and on a GPU, where a chunk costs its launches."""


def tail_tokens(context: int) -> int:
    """Tokens at the end of a window that are decoded; the rest is the prefix."""
    return min(TAIL, context // 2)


class DecodeRun(ScoredRun):
    """The prefixes of one model, context, replicate and logit gain, and what the 16-bit run made of their tails.

    Arrays: L layers, W windows, H KV heads, T prefix tokens, P tail tokens. `keys`, `values` [L, W, H, T, D];
    `tail_keys`, `tail_values` [L, W, H, P, D]; `queries` float32 [L, W, Hq, P, D]; `hidden` float32 [L, W, P, width]
    after each layer; `tokens` [W, P]; `union` the scored tokens; `logits` float32 [W, P, union]; `targets` [W, P].
    """

    kind = "decode"
    settings = {"windows": WINDOWS, "tail": TAIL, "top": TOP}  # noqa: RUF012

    def __init__(self, capture: Capture, subject: ModelUnderTest) -> None:
        super().__init__(capture, subject)
        self.logits = np.array(capture["logits"])

    @classmethod
    def of(cls, spec: TrialSpec, subject: ModelUnderTest) -> Self:
        """The run that a trial needs: under edits that of the model as it is, with the keys and values of the edited.

        Raises:
            as `ReferenceRun.of`.
        """
        if subject.changes is None or not spec.edits:
            return super().of(spec, subject)
        with subject.changes.swaps.suspended():
            plain = subject.shared(cls, spec.model_copy(update={"edits": ()}))
        return cls(EditedCapture(plain.capture, subject.changes.layers, subject.info.kv_layers), subject)

    @classmethod
    def write(cls, spec: TrialSpec, subject: ModelUnderTest, writer: CaptureWriter) -> None:
        """Read the windows in 16 bit, then decode their tails over what the cache kept."""
        _Capturing(spec, subject, cls.settings["windows"]).write(writer)

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        positions, tokens = self.logits.shape[1:]
        return (
            f"{self._windows}, the last {positions} scored "
            f"over the {tokens} tokens that are among the 16-bit run's {TOP} likeliest anywhere"
        )

    @property
    def scored_queries(self) -> str:
        """Which queries attend, in words."""
        return f"{self._windows}, the last {self.logits.shape[1]} attend"

    @property
    def _windows(self) -> str:
        windows, positions, _ = self.logits.shape
        return f"{windows} windows of {self.capture.facts['prefix'] + positions} tokens"

    @cached_property
    def _vocabulary(self) -> mx.array:
        return self.subject.forward.rows(np.array(self.capture["union"]))

    def run(self, caches: Sequence[Any], spec: TrialSpec, watch: Watch | None = None) -> divergence.Scores:
        """Put the prefixes into a trial's empty caches and decode the tails over them.

        Args:
            caches: the trial's, as the model takes them; they are filled.
            spec: the trial.
            watch: called with the number and the output of every layer from the first quantized one on.

        Raises:
            NonFiniteError: the run broke down.
        """
        Prefix.of(self.capture).put(caches)
        entry = self._entry(spec)
        logits = self.subject.forward.logits(self.tokens, caches, vocabulary=self._vocabulary, entry=entry, watch=watch)
        if entry is not None:
            # Layers that were skipped hold what they would: storage is counted over all of them.
            skipped = [cache for cache in packed_layers(caches) if cache.layer < entry.layer]
            append(
                skipped, *(layer_arrays(self.capture, name)[: len(skipped)] for name in ("tail_keys", "tail_values"))
            )
        return divergence.compare(self.logits, logits, self.targets)

    def _entry(self, spec: TrialSpec) -> Entry | None:
        """Where the run first differs from the 16-bit run: what lies before is known."""
        first = spec.layers[0] if spec.layers else 0
        if not first or not self.capture.facts["enterable"]:
            return None
        import mlx.core as mx

        hidden = mx.array(np.array(self.capture["hidden"][first - 1]))
        return Entry(first, hidden.astype(getattr(mx, self.capture.facts["compute"])))


class _Capturing:
    """The making of one 16-bit run."""

    def __init__(self, spec: TrialSpec, subject: ModelUnderTest, windows: int) -> None:
        self.context = spec.context
        self.prefix = spec.context - tail_tokens(spec.context)
        self.subject = subject
        self.plain = in_16_bit(spec)
        self.forward = subject.forward
        text = subject.windows(spec, spec.context + 1, 2 * window_count(windows, spec.context))[::2]
        self.text, self.targets = text[:, :-1], text[:, self.prefix + 1 :]
        self.tail = self.text[:, self.prefix :]

    def write(self, writer: CaptureWriter) -> None:
        """Run the model in 16 bit and write down what it did."""
        kept = self.subject.info.kv_layers
        read = AttentionRecorder(kept)
        whole, states = self._read(read)
        union = _union(whole, self.targets)
        vocabulary = self.forward.rows(union)
        keys, values = (self._prefixes(side) for side in (read.keys, read.values))
        hidden: dict[int, mx.array] = {}
        decoded = AttentionRecorder(kept)
        prefix = Prefix(keys, values, states)
        with attention.record(decoded):
            logits = self._decode(prefix, vocabulary, None, hidden.__setitem__)
        targets = np.searchsorted(union, self.targets)
        compute = hidden[0].dtype
        noise = noise_floor(self.subject, self.tail, targets, prefix=(prefix, compute), vocabulary=vocabulary)
        middle = len(self.forward.layers) // 2
        enterable = bool(middle) and self.forward.enterable
        half_way = self._decode(prefix, vocabulary, Entry(middle, hidden[middle - 1]), None) if enterable else None

        tails = ([parts[0] for parts in sides] for sides in (decoded.keys, decoded.values))
        named = zip(ATTENTION_INPUTS, (keys, values, *tails, decoded.queries), strict=True)
        for name, layers in named:
            save_layers(writer, name, layers)
        save_states(writer, states)
        outputs = [np.array(arrays.to_numpy(hidden[block]), np.float32) for block in range(len(self.forward.layers))]
        writer.save("hidden", np.stack(outputs))
        for name, array in (("tokens", self.tail), ("targets", targets), ("union", union)):
            writer.save(name, array.astype(np.int32))
        writer.save("logits", logits)
        writer.facts |= {
            "prefix": self.prefix,
            "noise_kld": noise,
            "enterable": half_way is not None and bool(np.array_equal(half_way, logits)),
            **decoded.facts,
            "compute": str(compute).rpartition(".")[2],
        }

    def _read(self, recorder: AttentionRecorder) -> tuple[NDArray[np.float32], list[State]]:
        """All tokens in chunks; logits of the tail over the whole vocabulary [W, P, V], states behind the prefix.

        Where caches hold states, a chunk ends with the prefix.
        """
        caches = trial_caches(self.plain, self.subject)
        others = other_caches(caches)
        chunk = CHUNK if arrays.on_host() else DEVICE_CHUNK
        starts = sorted({*range(0, self.context, chunk), *([self.prefix] if others else [])})
        found, states = [], []
        with attention.record(recorder):
            for start, stop in pairwise([*starts, self.context]):
                scored = range(max(0, self.prefix - start), stop - start)
                found.append(self.forward.logits(self.text[:, start:stop], caches, scored=scored))
                if stop == self.prefix:
                    states = states_of(others)
        return np.concatenate(found, axis=1), states

    def _prefixes(self, sides: list[list[NDArray[Any]]]) -> list[NDArray[Any]]:
        return [np.ascontiguousarray(np.concatenate(side, axis=2)[:, :, : self.prefix]) for side in sides]

    def _decode(
        self, prefix: Prefix, vocabulary: mx.array, entry: Entry | None, watch: Watch | None
    ) -> NDArray[np.float32]:
        caches = trial_caches(self.plain, self.subject)
        prefix.put(caches)
        return self.forward.logits(self.tail, caches, vocabulary=vocabulary, entry=entry, watch=watch)


def _union(logits: NDArray[np.float32], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """The tokens that are among the likeliest at any position, and the true ones; sorted."""
    size = logits.shape[-1]
    chosen = np.zeros(size, np.bool_)
    chosen[targets.reshape(-1)] = True
    for row in logits.reshape(-1, size):
        chosen[np.argpartition(row, max(0, size - TOP))[-TOP:]] = True
    return np.flatnonzero(chosen)
