"""What a 16-bit run leaves for all trials on the same text: captured arrays, attention inputs and the noise floor.

16-bit keys and values travel between caches and files here: numpy has no bfloat16, so its bits are stored as uint16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.states import State, read_states, restore_states
from swarm.kernels import arrays
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import make_cache, other_caches, packed_layers, split
from swarm.kernels.spec import KVSpec, ranges

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.artifacts import Capture, CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import Recorded
    from swarm.kernels.cache import PackedKVCache

MAX_CONTEXT_OF_ALL_WINDOWS = 8192
"""Tokens of a window up to which runs read all of their windows; of longer ones they read half."""
ATTENTION_INPUTS = ("keys", "values", "tail_keys", "tail_values", "queries")


class ReferenceRun:
    """A 16-bit run that is captured once and read by every trial on the same text.

    Attributes:
        kind: first word of the capture's name.
        settings: constants that the capture depends on, beside the trial's text.
    """

    kind: ClassVar[str]
    settings: ClassVar[dict[str, int]]

    def __init__(self, capture: Capture, subject: ModelUnderTest) -> None:
        self.capture = capture
        self.subject = subject

    @classmethod
    def of(cls, spec: TrialSpec, subject: ModelUnderTest) -> Self:
        """The run that a trial needs, made now if nobody did before.

        Raises:
            CorpusError: the text is too short.
            DiskFullError: there is no space for the capture.
            NonFiniteError: the 16-bit run itself is not finite.
        """
        key = subject.key(spec) | cls.settings
        return cls(subject.captures.get(cls.kind, key, lambda writer: cls.write(spec, subject, writer)), subject)

    @classmethod
    def write(cls, spec: TrialSpec, subject: ModelUnderTest, writer: CaptureWriter) -> None:
        """Run the model in 16 bit and write down what it did."""
        raise NotImplementedError

    def layers(self, numbers: Iterable[int]) -> Iterator[LayerInputs]:
        """What attention of some layers was given, one layer after the other."""
        whole = [layer_arrays(self.capture, name) for name in ATTENTION_INPUTS]
        kept = self.subject.info.kv_layers
        for number in numbers:
            if number not in kept:
                raise SpecError(
                    f"layer {number} of {self.subject.name} keeps no keys and values.",
                    f"Layers that do: {ranges(kept)}.",
                )
            at = kept.index(number)
            keys, values, tail_keys, tail_values, queries = (array[at] for array in whole)
            scale = self.capture.facts["scales"][at]
            if scale is None:
                raise SpecError(
                    f"{self.subject.name} computes the attention of layer {number} itself, out of sight.",
                    "Measure it with protocol quality, and with scaling=fixed.",
                )
            sinks = self.capture.facts.get("sinks", [None] * len(kept))[at]
            learned = None if sinks is None else np.array(sinks, np.float32)
            yield LayerInputs(keys, values, tail_keys, tail_values, queries, scale, learned)


class ScoredRun(ReferenceRun):
    """A 16-bit run that quantized runs over the same windows are scored against.

    `tokens` [windows, tokens] are read, `targets` [windows, positions] are the true next tokens (as indices on the
    last axis of the logits).
    """

    def __init__(self, capture: Capture, subject: ModelUnderTest) -> None:
        super().__init__(capture, subject)
        self.tokens, self.targets = (np.array(capture[name]) for name in ("tokens", "targets"))

    @property
    def noise_kld(self) -> Sequence[float]:
        """Divergence per window between two 16-bit runs (see `noise_floor`), nats."""
        return tuple(self.capture.facts["noise_kld"])

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        raise NotImplementedError

    def run(self, caches: Sequence[Any], spec: TrialSpec) -> divergence.Scores:
        """Read the windows over the empty caches of a trial, which are filled.

        Raises:
            NonFiniteError: the run broke down.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LayerInputs:
    """What one layer's attention was given in the 16-bit run.

    `keys`, `values` [W, H, T, D] are 16 bit, as a file holds them: T prefix tokens; `tail_keys`, `tail_values`
    [W, H, P, D] those behind them, whose `queries` float32 [W, Hq, P, D] attend; logits are `scale` times <q, k>.
    `sinks` float32 [Hq] are learned logits that stand for no token.
    """

    keys: NDArray[np.generic]
    values: NDArray[np.generic]
    tail_keys: NDArray[np.generic]
    tail_values: NDArray[np.generic]
    queries: NDArray[np.float32]
    scale: float
    sinks: NDArray[np.float32] | None = None

    def placed(self) -> Self:
        """The same where MLX computes: copied to a GPU once, for those who attend often."""
        if arrays.on_host():
            return self
        import mlx.core as mx

        sides = {name: from_file(getattr(self, name)) for name in ATTENTION_INPUTS if name != "queries"}
        return replace(self, **sides | {"queries": mx.array(self.queries)})

    def repeated(self, count: int) -> Self:
        """The same heads so many times, one set after the other, where MLX computes."""
        if count == 1:
            return self
        import mlx.core as mx

        sides: dict[str, Array] = {name: mx.tile(getattr(self, name), (1, count, 1, 1)) for name in ATTENTION_INPUTS}
        return replace(self, **sides, sinks=None if self.sinks is None else np.tile(self.sinks, count))


class AttentionRecorder:
    """Collects what attention is given, layer by layer, while a model runs; to be passed to `attention.record`.

    Lists are in the order of `layers`, the layers that keep keys and values. `keys` and `values` hold one 16-bit array
    per call, `queries` float32 and `scales` those of the last call: empty and None where a model computes its
    attention itself.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self._at = {layer: place for place, layer in enumerate(layers)}
        self.keys: list[list[NDArray[Any]]] = [[] for _ in layers]
        self.values: list[list[NDArray[Any]]] = [[] for _ in layers]
        self.queries: list[NDArray[np.float32]] = [np.empty(0, np.float32) for _ in layers]
        self.scales: list[float | None] = [None for _ in layers]
        self.sinks: list[list[float] | None] = [None for _ in layers]

    def __call__(self, call: Recorded) -> None:
        """Note one call."""
        at = self._at[call.layer]
        self.keys[at].append(to_file(call.keys).copy())
        self.values[at].append(to_file(call.values).copy())
        if call.queries is not None and call.scale is not None:
            self.scales[at] = float(call.scale)
            self.queries[at] = np.array(arrays.to_numpy(call.queries), np.float32)
        if call.sinks is not None:
            self.sinks[at] = arrays.single(np, arrays.to_numpy(call.sinks)).tolist()

    @property
    def facts(self) -> dict[str, Any]:
        """What captures keep beside the arrays."""
        return {"scales": self.scales} | ({"sinks": self.sinks} if any(self.sinks) else {})


def save_layers(writer: CaptureWriter, name: str, layers: Sequence[NDArray[Any]]) -> None:
    """Write one array per layer: stacked where they are alike, else one file each."""
    first = layers[0]
    if all((layer.shape, layer.dtype) == (first.shape, first.dtype) for layer in layers):
        writer.stream(name, (len(layers), *first.shape), first.dtype, layers)
        return
    for at, layer in enumerate(layers):
        writer.save(f"{name}.{at}", layer)


def layer_arrays(capture: Capture, name: str) -> Sequence[NDArray[Any]]:
    """The arrays that `save_layers` wrote, in the order of the layers."""
    if name in capture.names:
        return capture[name]  # type: ignore[return-value]
    count = sum(other.startswith(f"{name}.") for other in capture.names)
    return [capture[f"{name}.{at}"] for at in range(count)]


def to_file(x: Array) -> NDArray[Any]:
    """Keys or values of any type as the cache would hold them: float16, or the bits of bfloat16 as uint16."""
    xp = np if arrays.on_host() else arrays.namespace(x)
    held = arrays.half(xp, arrays.held(xp, x))
    if isinstance(held, np.ndarray):
        return held
    import mlx.core as mx

    return np.array(held.view(mx.uint16) if held.dtype == mx.bfloat16 else held)


def from_file(x: NDArray[Any] | Array) -> Array:
    """The array that a cache takes in; memory-mapped arrays stay mapped on the CPU, and those on a GPU there."""
    if arrays.on_host():
        return x
    import mlx.core as mx

    if isinstance(x, mx.array):
        return x
    held = mx.array(x)
    return held.view(mx.bfloat16) if held.dtype == mx.uint16 else held


def float32_from_file(x: NDArray[Any]) -> NDArray[np.float32]:
    """The file's values in float32."""
    wide: NDArray[np.float32] = arrays.single(np, arrays.to_numpy(from_file(x)))
    return wide


def window_count(windows: int, context: int) -> int:
    """How many of its text windows a run reads at a context."""
    return windows if context <= MAX_CONTEXT_OF_ALL_WINDOWS else windows // 2


def in_16_bit(spec: TrialSpec) -> TrialSpec:
    """The trial with nothing quantized."""
    return spec.model_copy(update={"kv": KVSpec()})


@dataclass(frozen=True)
class Prefix:
    """What lies before the tokens: 16-bit keys and values per layer that keeps them, and the other caches' states."""

    keys: Sequence[NDArray[Any]]
    values: Sequence[NDArray[Any]]
    states: Sequence[State]

    @classmethod
    def of(cls, capture: Capture) -> Self:
        """What a capture holds."""
        return cls(layer_arrays(capture, "keys"), layer_arrays(capture, "values"), read_states(capture))

    def put(self, caches: Sequence[Any]) -> None:
        """Fill empty caches, as a model takes them."""
        append(packed_layers(caches), self.keys, self.values)
        restore_states(other_caches(caches), self.states)


def append(caches: Sequence[PackedKVCache], keys: Iterable[NDArray[Any]], values: Iterable[NDArray[Any]]) -> None:
    """Put keys and values [W, H, T, D] per layer, as files hold them, into the layers' caches."""
    for cache, k, v in zip(caches, keys, values, strict=True):
        cache.append(from_file(k), from_file(v))


def noise_floor(
    subject: ModelUnderTest,
    tokens: NDArray[np.integer],
    targets: NDArray[np.integer],
    *,
    prefix: tuple[Prefix, mx.Dtype] | None = None,
    scored: Sequence[int] | None = None,
    vocabulary: mx.array | None = None,
) -> list[float]:
    """Divergence per window of two 16-bit runs that ought to say the same, nats.

    One goes through our cache and attention, the other through the model's own (mlx-lm's caches, MLX's attention),
    which rounds elsewhere: keys and values of new tokens are not rounded to 16 bit. Cutting the text into other chunks
    is no measure: our attention gives each query the same bits however many come at once. Neither is a bound for
    low-bit runs, which amplify rounding. Both run without logit gain: the model's own attention has none.

    Args:
        subject: the model.
        tokens: what is read [windows, tokens].
        targets: index of the true next token at every scored position [windows, positions].
        prefix: what lies before the tokens, and the type that the model computes in.
        scored: scored positions; None means all.
        vocabulary: rows of the head that are scored; None means all.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    model = subject.loaded.model
    logits = []
    for caches in (make_cache(model, traced=subject.traced), make_prompt_cache(model)):
        if prefix is not None:
            before, compute = prefix
            kept, others = split(caches, subject.traced)
            for cache, *sides in zip(kept, before.keys, before.values, strict=True):
                cache.update_and_fetch(*(mx.array(from_file(side)).astype(compute) for side in sides))
            restore_states(others, before.states)
        logits.append(subject.forward.logits(tokens, caches, scored=scored, vocabulary=vocabulary))
    return [float(value) for value in divergence.compare(logits[0], logits[1], targets).kld.mean(-1)]
