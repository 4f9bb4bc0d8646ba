"""The arrays that decode attention reads: keys and values in one form or another, and what changes their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swarm.kernels.fused.form import Codes, PackedForm
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, Array, DType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.kernels.fused.recent import Recent


class Frame(NamedTuple):
    """How vectors [B, H, T, D] came into the frame in which they are packed, for kernels that map queries and outputs.

    A query meets them as (q * factors) H, and outputs o come back as (o H) * factors: H is block diagonal of
    Hadamard matrices of `order`, a power of two (1: none), with entries 1 and -1, `factors` float32 [H or 1, D].
    """

    order: int
    factors: Array


@dataclass(frozen=True, eq=False)
class PackedSide:
    """Packed keys or values: arrays [B, H, capacity, ...] with contiguous rows, and the first token that counts.

    With a `frame`, queries are given as they are and outputs come back as they are to be.
    """

    form: PackedForm
    parts: Mapping[str, Array]
    first: int = 0
    frame: Frame | None = None


@dataclass(frozen=True, eq=False)
class DenseSide:
    """16-bit keys or values [B, H, capacity, D] with contiguous rows, and the first token that counts."""

    values: Array
    first: int = 0


@dataclass(frozen=True, eq=False)
class TokenRun:
    """`count` tokens of keys and values in one form.

    `starts`, of `starts_of`, is the first token of each sequence, where not all begin with the first of the run.
    """

    key: Any
    value: Any
    count: int
    recent: Recent | None = None  # further packed tokens, behind those
    starts: Array | None = None


@dataclass(frozen=True, eq=False)
class Scoring:
    """What becomes of the logits before the softmax, in this order.

    `cap`: they are cap * tanh(logit / cap). `bias` [B or 1, Hq or 1, 1, columns] is added; its last columns are those
    of the runs, and numbers far below zero hide a column. `sinks` [Hq] are logits that take part without a value.
    """

    cap: float | None = None
    bias: Array | None = None
    sinks: Array | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is done."""
        return self.cap is None and self.bias is None and self.sinks is None


@lru_cache(maxsize=64)
def bits_of(factor: float) -> int:
    """A factor of logits, of base-2 scores then, as the bits of a float32."""
    return int(np.float32(factor * math.log2(math.e)).view(np.uint32))


PLAIN = Scoring()


def scored(scoring: Scoring, heads: tuple[int, int]) -> tuple[tuple[tuple[str, Any], ...], list[Array]]:
    """Template arguments and arrays (bias [B, Hq, 1, columns], sinks), with a stand-in for what there is not."""
    import mlx.core as mx

    bias, sinks = (None if array is None else _long_enough(array) for array in (scoring.bias, scoring.sinks))
    if bias is not None and bias.shape[:2] != heads:
        bias = mx.broadcast_to(bias, (*heads, *bias.shape[2:]))
    template = [("CAP", 0 if scoring.cap is None else bits_of(scoring.cap))]
    template += [("BIAS", int(bias is not None)), ("SINKS", int(sinks is not None))]
    arrays = [_blank(mx.float32) if array is None else array for array in (bias, sinks)]
    return (*template, ("B", arrays[0].dtype), ("S", arrays[1].dtype)), arrays


@lru_cache(maxsize=8)
def starts_of(firsts: tuple[int, ...]) -> Array:
    """The first token of each sequence, as a `TokenRun` holds it; the layers of a model share it."""
    import mlx.core as mx

    starts = _long_enough(mx.array(firsts, mx.int32))
    mx.eval(starts)
    return starts


def pair(low: int, high: int) -> int:
    """Two numbers of 32 bits as one, as kernels read them."""
    return low + (high << 32)


def recent_of(recent: Recent | None) -> tuple[Array, int]:
    """The array of recent tokens and their number, with a stand-in for none."""
    if recent is not None:
        return recent.array, recent.count
    import mlx.core as mx

    return _blank(mx.uint8), 0


def dim_of(side: PackedSide | DenseSide) -> int:
    """The head size of keys or values."""
    return int(side.values.shape[-1]) if isinstance(side, DenseSide) else side.form.channels(side.parts)


def frame_of(side: PackedSide | DenseSide) -> Frame | None:
    """The frame that a kernel maps into and back from, None where there is none."""
    return side.frame if isinstance(side, PackedSide) else None


def codes_of(side: PackedSide | DenseSide) -> Array:
    """The array that holds the codes, or the 16-bit vectors [B, H, capacity, ...]."""
    return side.parts[side.form.codes_name] if isinstance(side, PackedSide) else side.values


def described(side: PackedSide | DenseSide, dim: int) -> tuple[PackedForm, tuple[Array, ...]]:
    """Form and the arrays (codes, scales, biases or codebook), with a stand-in for those that it does not have."""
    import mlx.core as mx

    if isinstance(side, DenseSide):
        return _sixteen_bit(dim, side.values.dtype), (_padded(side.values),) * 3
    form, parts = side.form, side.parts
    scales = _blank(mx.float16) if form.scales_name is None else parts[form.scales_name]
    biases = scales if form.biases_name is None else parts[form.biases_name]
    if form.book is not None:
        biases = _book(form.book_bytes, mx.float32 if form.decodes_whole else scales.dtype)
    return form, (_padded(parts[form.codes_name]), _padded(scales), _padded(biases))


@cache
def _sixteen_bit(dim: int, dtype: DType) -> PackedForm:
    import mlx.core as mx

    codes: Codes = "bfloat16" if dtype == mx.bfloat16 else "float16"
    return PackedForm(16, dim, codes, 0)


NOWHERE: tuple[int, ...] = (0, 0, 0)


def dense(head: TokenRun | None, tail: TokenRun | None) -> tuple[DType, list[Array], tuple[int, ...]]:
    """Type, arrays and numbers of the 16-bit runs: how many tokens, and the first of keys and values of either.

    An absent run reads nothing of the other's arrays.
    """
    present = [run for run in (head, tail) if run]
    runs = (head or present[0], tail or present[0])
    half = runs[0].key.values.dtype
    arrays = [_padded(side.values.astype(half)) for run in runs for side in (run.key, run.value)]
    firsts = (pair(run.key.first, run.value.first) for run in runs)
    return half, arrays, (pair(runs[0].count, runs[1].count), *firsts)


@cache
def nothing() -> DenseSide:
    """What stands for packed tokens where there are none."""
    import mlx.core as mx

    return DenseSide(_blank(mx.float16))


@cache
def _blank(dtype: Any) -> Array:
    """What stands for an array that a launch does not use."""
    import mlx.core as mx

    blank = mx.zeros((1, 1, 1, MIN_INPUT_ELEMENTS), dtype=dtype)
    mx.eval(blank)
    return blank


@lru_cache(maxsize=64)
def _book(values: bytes, dtype: Any) -> Array:
    """A codebook on the device, padded to the least size of an input."""
    import mlx.core as mx

    book = np.frombuffer(values, np.float32)
    table = mx.array(np.pad(book, (0, max(0, MIN_INPUT_ELEMENTS - book.size)))).astype(dtype).reshape(1, 1, 1, -1)
    mx.eval(table)
    return table


def _long_enough(array: Array) -> Array:
    """The array with at least `MIN_INPUT_ELEMENTS` elements in its last axis."""
    import mlx.core as mx

    missing = MIN_INPUT_ELEMENTS - array.shape[-1]
    return mx.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing > 0 else array


def _padded(array: Array) -> Array:
    """The array with at least `MIN_INPUT_ELEMENTS` elements; more tokens where it has fewer."""
    import mlx.core as mx

    if array.size >= MIN_INPUT_ELEMENTS:
        return array
    tokens = -(-MIN_INPUT_ELEMENTS // (array.size // array.shape[2])) - array.shape[2]
    return mx.pad(array, [(0, 0), (0, 0), (0, tokens), (0, 0)])
