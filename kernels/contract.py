"""What every quantization method must keep, as checks that whoever writes one can run: `check_method("rounding")`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from swarm.kernels.codec import Codec
from swarm.kernels.errors import NonFiniteError, SpecError, SwarmError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec, variants

HEAD_SIZES = (64, 80, 96, 128, 256)
LARGEST = 12
"""No restored value is larger than so many times the largest that was encoded."""


class ContractError(SwarmError):
    """A method that breaks what caches, search and summaries rely on."""


def check_method(name: str, head_sizes: Sequence[int] = HEAD_SIZES) -> None:
    """Run every check on every specification of a method, at all head sizes that take it.

    Raises:
        UnknownNameError: there is no such method.
        ContractError: with the specification and the promise that it breaks.
    """
    check_declaration(name)
    for spec in variants(name):
        fitting = list(codecs(spec, head_sizes))
        _require(spec, bool(fitting), f"fits none of the head sizes {tuple(head_sizes)}")
        for codec in fitting:
            check_bytes(codec)
            check_independence(codec)
            check_refusals(codec)
            check_sizes(codec)
            check_scores(codec)


def codecs(spec: QuantSpec, head_sizes: Sequence[int] = HEAD_SIZES, seed: int = 0) -> Iterator[Codec]:
    """Codecs at every head size that the specification takes.

    Raises:
        ContractError: another head size is refused without being named, or without a remedy.
    """
    side = base.method(spec.method).choices.sides[0]
    for head_dim in head_sizes:
        try:
            yield Codec(spec, side, head_dim, seed)
        except SpecError as error:
            told = str(head_dim) in error.problem and bool(error.remedy)
            _require(spec, told, f"refuses head size {head_dim} without naming it and a remedy: {error}")


def check_declaration(name: str) -> None:
    """It has the name that it is found by, a source, a summary, a formula, a docstring, and text forms that parse."""
    kind = base.method(name)
    for field in ("source", "summary", "formula", "__doc__"):
        _require(name, bool(getattr(kind, field, "")), f"has no {field}")
    _require(name, kind.name == name, f"calls itself {kind.name}")
    for spec in variants(name):
        found = QuantSpec.parse(spec.label)
        _require(spec, found.model_copy(update={"axis": spec.axis}) == spec, f"has the label {spec.label} of {found!r}")


def check_bytes(codec: Codec) -> None:
    """Packed arrays have the bytes that it claims, [B, H, blocks of tokens, ...]; what is decoded is float32."""
    x = _vectors(codec, (2, 3, 3), seed=1)
    packed = codec.encode(x)
    stored = sum(part.nbytes for part in packed.values()) * 8
    claimed = codec.bits_per_value * x.size
    _require(codec.spec, abs(stored - claimed) < 1e-6, f"claims {claimed} bits and stores {stored}")
    for key, part in packed.items():
        _require(codec.spec, part.shape[:3] == (2, 3, 3), f"packs {key} of shape {part.shape}, not [B, H, blocks, ...]")
    decoded = codec.decode(packed)
    _require(codec.spec, decoded.dtype == np.float32, f"decodes to {decoded.dtype}, not float32")
    _require(codec.spec, decoded.shape[:3] == x.shape[:3], f"decodes {x.shape} to {decoded.shape}")
    _require(codec.spec, codec.output(decoded).shape == x.shape, "does not give back the shape that it was given")


def check_independence(codec: Codec) -> None:
    """A block of tokens of one head is packed alike, whatever other tokens, heads and batches are beside it."""
    x, block = _vectors(codec, (2, 2, 5), seed=2), codec.block_tokens
    whole, part = codec.encode(x), codec.encode(x[1:, 1:, block : 2 * block])
    for key, values in whole.items():
        same = np.array_equal(values[1:, 1:, 1:2], part[key])
        _require(codec.spec, same, f"packs {key} of a block differently beside others")


def check_refusals(codec: Codec) -> None:
    """What is no number, or beyond the format, is refused as a NonFiniteError that names the method."""
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        x = np.ones((1, 2, codec.block_tokens, codec.head_dim), np.float32)
        x[0, 1, -1, 7] = bad
        try:
            codec.encode(x)
        except NonFiniteError as error:
            _require(codec.spec, codec.spec.method in error.problem, f"refuses {bad} without its name: {error}")
        else:
            _require(codec.spec, False, f"takes {bad}")


def check_sizes(codec: Codec) -> None:
    """Zeros stay zero; from tiny to huge vectors what is restored is finite and of their size."""
    x = _vectors(codec, (1, 1, 2), seed=4)
    for scale in (0.0, 1e-30, 1e-6, 1e-3, 1.0, 100.0, min(3000.0, codec.quantizer.largest)):
        out = np.asarray(codec.output(codec.decode(codec.encode(np.float32(scale / np.abs(x).max()) * x))))
        bound = LARGEST * scale + 1e-6 * (scale > 0)
        _require(codec.spec, bool(np.abs(out).max() <= bound), f"restores {np.abs(out).max()} from at most {scale}")


def check_scores(codec: Codec) -> None:
    """Scores of mapped queries with decoded keys are those of queries with restored keys."""
    k = _vectors(codec, (1, 2, 4), seed=6)
    q = np.random.default_rng(7).standard_normal((1, 2, 5, codec.head_dim)).astype(np.float32)
    decoded = codec.decode(codec.encode(k))
    mapped = codec.query(q) @ decoded.swapaxes(-1, -2)
    plain = q @ np.asarray(codec.output(decoded)).swapaxes(-1, -2)
    far = np.abs(mapped - plain).max() / max(np.abs(plain).max(), 1e-30)
    _require(codec.spec, bool(far < 4e-3), f"has scores that differ by {far:.2g} from those of restored keys")


def _vectors(codec: Codec, shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Keys with outlier channels, [B, H, blocks * block_tokens, D]."""
    rng = np.random.default_rng([seed, codec.head_dim])
    batch, heads, blocks = shape
    spread = np.exp(rng.standard_normal((1, heads, 1, codec.head_dim)))
    x = rng.standard_normal((batch, heads, blocks * codec.block_tokens, codec.head_dim))
    return (x * spread).astype(np.float32)


def _require(subject: QuantSpec | str, kept: bool, broken: str) -> None:
    if not kept:
        name = subject if isinstance(subject, str) else f"{subject.label} ({subject.axis} axis)"
        raise ContractError(f"{name} {broken}.", "See kernels/quantizers/base.py for what a method promises.")
