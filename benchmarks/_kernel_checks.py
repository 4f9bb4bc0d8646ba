"""Checks the fused kernels on this device: attention against float64, codes against the methods' own encoders."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels.errors import SwarmError
from swarm.kernels.fused import peers
from swarm.kernels.fused.decode import DecodeAttention
from swarm.kernels.fused.operands import DenseSide, PackedSide, TokenRun
from swarm.kernels.quantizers import base

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.kernels.backends.base import Backend
    from swarm.kernels.spec import QuantSpec

# type of queries and output, KV heads, query heads of each, packed tokens, 16-bit tokens before and behind them
Case = tuple[str, int, int, int, int, int]
CASES: tuple[Case, ...] = (
    ("float16", 2, 8, 1003, 4, 37),
    ("float16", 1, 3, 77, 0, 0),
    ("float16", 1, 16, 260, 2, 130),
    ("float32", 1, 8, 203, 0, 0),
)
HEAD_DIMS = (64, 80, 96, 128, 192, 256, 512)
LIMITS = {"float16": 2e-3, "float32": 1e-5}  # relative errors


def decode(formats: Sequence[QuantSpec], jobs: int, most: int | None = None) -> list[dict]:
    """Relative errors on this device, over formats, head sizes, groups and segments; `most` cases, spread over all.

    Every case is a kernel of its own, and compiling one takes seconds: several processes share the work.
    """
    cases = [(spec, dim, case) for spec in formats for dim in HEAD_DIMS if fits(spec, dim) for case in CASES]
    cases = cases[:: max(1, -(-len(cases) // (most or len(cases))))]
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=own_kernel_cache)
    try:
        errors = list(pool.map(error_of, *zip(*cases, strict=True), range(len(cases))))
    finally:
        pool.shutdown(cancel_futures=True)  # of a case that failed, others are not waited for
    return [
        {
            "format": spec.label,
            "head_dim": dim,
            "type": case[0],
            "group": case[2],
            "tokens": case[3],
            "error": error,
            "limit": LIMITS[case[0]],
        }
        for (spec, dim, case), error in zip(cases, errors, strict=True)
    ]


def own_kernel_cache() -> None:
    """Give this process compiled kernels of its own: MLX's processes read each other's files half written."""
    os.environ["MLX_PTX_CACHE_DIR"] = tempfile.mkdtemp(prefix="kernel-checks-")


def fits(spec: QuantSpec, dim: int) -> bool:
    """Whether the format takes heads of this size, as keys and as values."""
    try:
        for name in ("key", "value"):
            base.method(spec.method).check_head_dim(base.for_side(spec, name), dim)
    except SwarmError:
        return False
    return True


def error_of(spec: QuantSpec, dim: int, case: Case, seed: int) -> float:
    """Relative error of one case on fresh tensors."""
    import mlx.core as mx

    fused = peers.backend_of_this_machine().fused
    if fused is None:
        raise TypeError("a GPU without kernels")
    kind, heads, group, tokens, head, tail = case
    rng = np.random.default_rng(seed)

    def vectors(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(mx.float16)

    def wide(x: mx.array) -> np.ndarray:
        return np.array(x.astype(mx.float32)).astype(np.float64)

    quantizers = [base.build(base.for_side(spec, name), dim) for name in ("key", "value")]
    first = 5
    stored = [-(-(tokens + first) // one.block_tokens) * one.block_tokens for one in quantizers]  # whole blocks
    parts = [one.encode(vectors(2, heads, count, dim)) for one, count in zip(quantizers, stored, strict=True)]
    pairs = list(zip(quantizers, parts, strict=True))
    runs = {"packed": TokenRun(*(side(one, part, first) for one, part in pairs), tokens)}
    columns = [[wide(one.decode(part))[:, :, first : first + tokens]] for one, part in pairs]
    for name, count in (("head", head), ("tail", tail)):
        if count:
            pair = [vectors(2, heads, count, dim) for _ in "kv"]
            runs[name] = TokenRun(*(DenseSide(x) for x in pair), count)
            for column, x in zip(columns, pair, strict=True):
                column.append(wide(x))
    k, v = (np.concatenate(column, axis=2) for column in columns)
    q = vectors(2, heads * group, 1, dim).astype(getattr(mx, kind))
    nbytes = max(scale_bytes(one, dim) for one in quantizers)
    attention = DecodeAttention(fused.launcher, fused.device_of(dim, nbytes, group))
    out, _ = attention(q, 0.1, runs["packed"], head=runs.get("head"), tail=runs.get("tail"))
    scores = 0.1 * np.einsum("bhgd,bhtd->bhgt", wide(q).reshape(2, heads, group, dim), k)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = np.einsum("bhgt,bhtd->bhgd", shares / shares.sum(axis=-1, keepdims=True), v).reshape(q.shape)
    return float(np.linalg.norm(wide(out) - expected) / np.linalg.norm(expected))


def scale_bytes(quantizer: base.Quantizer, dim: int) -> int:
    """Bytes of a head's scales, as plans count them."""
    form = quantizer.form()
    return 0 if form is None else form.scale_bytes(dim)


def side(quantizer: base.Quantizer, parts: dict[str, mx.array], first: int) -> PackedSide:
    """What a kernel is given for packed arrays of a format."""
    form = quantizer.form()
    if form is None:
        raise TypeError(f"no kernel reads {quantizer.spec.label}")
    return PackedSide(form, parts, first)


def encode(formats: Sequence[QuantSpec], backend: Backend | None = None, tokens: Sequence[int] = (37,)) -> list[dict]:
    """Shares of packed bytes in which what a back-end packs and the method's own in numpy differ, per format and size.

    A back-end may pack few tokens without its kernel.
    """
    import mlx.core as mx

    backend = backend or peers.backend_of_this_machine()
    rows = []
    for seed, (spec, count) in enumerate(product(formats, tokens)):
        quantizer = base.build(spec, 128)
        x = np.random.default_rng(seed).standard_normal((2, 4, count, 128)).astype(np.float16)
        found, expected = backend.pack(quantizer, mx.array(x)), quantizer.pack(np, x)
        pairs = [(np.array(found[name]).view(np.uint8), np.array(expected[name]).view(np.uint8)) for name in expected]
        differ = sum(int((ours != theirs).sum()) for ours, theirs in pairs) / sum(ours.size for ours, _ in pairs)
        rows.append(
            {"format": spec.label, "head_dim": 128, "tokens": count, "encoder": True, "error": differ, "limit": 0.0}
        )
    return rows
