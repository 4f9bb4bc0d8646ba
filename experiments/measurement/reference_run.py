"""What a 16-bit run leaves for all trials on the same text: captured arrays, attention inputs and the noise floor.

16-bit keys and values travel between caches and files here: numpy has no bfloat16, so its bits are stored as uint16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence
from swarm.kernels import arrays
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.experiments.artifacts import Capture, CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.arrays import Array
    from swarm.kernels.attention import Recorded
    from swarm.kernels.cache import PackedKVCache

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
        whole = [self.capture[name] for name in ATTENTION_INPUTS]
        for number in numbers:
            keys, values, tail_keys, tail_values, queries = (array[number] for array in whole)
            yield LayerInputs(keys, values, tail_keys, tail_values, queries, self.capture.facts["scales"][number])


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

    def run(self, caches: Sequence[PackedKVCache], spec: TrialSpec) -> divergence.Scores:
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
    """

    keys: NDArray[np.generic]
    values: NDArray[np.generic]
    tail_keys: NDArray[np.generic]
    tail_values: NDArray[np.generic]
    queries: NDArray[np.float32]
    scale: float


class AttentionRecorder:
    """Collects what attention is given, layer by layer, while a model runs; to be passed to `attention.record`.

    `keys` and `values` hold one 16-bit array per call, `queries` float32 and `scales` those of the last call.
    """

    def __init__(self, n_layers: int) -> None:
        self.keys: list[list[NDArray[Any]]] = [[] for _ in range(n_layers)]
        self.values: list[list[NDArray[Any]]] = [[] for _ in range(n_layers)]
        self.queries: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * n_layers
        self.scales = [0.0] * n_layers

    def __call__(self, call: Recorded) -> None:
        """Note one call."""
        self.keys[call.layer].append(to_file(call.keys).copy())
        self.values[call.layer].append(to_file(call.values).copy())
        self.scales[call.layer] = float(call.scale)
        self.queries[call.layer] = np.array(arrays.to_numpy(call.queries), np.float32)


def to_file(x: Array) -> NDArray[Any]:
    """Keys or values of any type as the cache would hold them: float16, or the bits of bfloat16 as uint16."""
    xp = np if arrays.on_host() else arrays.namespace(x)
    held = arrays.half(xp, arrays.held(xp, x))
    if isinstance(held, np.ndarray):
        return held
    import mlx.core as mx

    return np.array(held.view(mx.uint16) if held.dtype == mx.bfloat16 else held)


def from_file(x: NDArray[Any]) -> Array:
    """The array that a cache takes in; memory-mapped arrays stay mapped on the CPU."""
    if arrays.on_host():
        return x
    import mlx.core as mx

    held = mx.array(x)
    return held.view(mx.bfloat16) if held.dtype == mx.uint16 else held


def float32_from_file(x: NDArray[Any]) -> NDArray[np.float32]:
    """The file's values in float32."""
    wide: NDArray[np.float32] = arrays.single(np, arrays.to_numpy(from_file(x)))
    return wide


def in_16_bit(spec: TrialSpec) -> TrialSpec:
    """The trial with nothing quantized."""
    return spec.model_copy(update={"kv": KVSpec()})


@dataclass(frozen=True)
class Prefix:
    """16-bit keys and values per layer that lie before the tokens, and the type that the model computes in."""

    keys: Sequence[NDArray[Any]]
    values: Sequence[NDArray[Any]]
    compute: mx.Dtype


def noise_floor(
    subject: ModelUnderTest,
    tokens: NDArray[np.integer],
    targets: NDArray[np.integer],
    *,
    prefix: Prefix | None = None,
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
        prefix: what lies before the tokens.
        scored: scored positions; None means all.
        vocabulary: rows of the head that are scored; None means all.
    """
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    model = subject.loaded.model
    logits = []
    for caches in (make_cache(model), make_prompt_cache(model)):
        if prefix is not None:
            for cache, *sides in zip(caches, prefix.keys, prefix.values, strict=True):
                cache.update_and_fetch(*(mx.array(from_file(side)).astype(prefix.compute) for side in sides))
        logits.append(subject.forward.logits(tokens, caches, scored=scored, vocabulary=vocabulary))
    return [float(value) for value in divergence.compare(logits[0], logits[1], targets).kld.mean(-1)]
