"""Cases of fused decode attention in the host emulation, and their errors against float64."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from emulation.host import Host

from swarm.kernels.fused.decode import DecodeAttention
from swarm.kernels.fused.operands import DenseSide, PackedSide, Scoring, TokenRun
from swarm.kernels.fused.plan import Device
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

LIMITS = {mx.float32: 1e-5, mx.float16: 2e-3, mx.bfloat16: 2e-3}

A4 = QuantSpec(method="affine", bits=4, group_size=64)
FORMATS = {
    **{f"affine{b}g{g}": QuantSpec(method="affine", bits=b, group_size=g) for b in (2, 4, 8) for g in (32, 64, 128)},
    **{f"affine{b}g64": QuantSpec(method="affine", bits=b, group_size=64) for b in (3, 5, 6)},
    **{
        name: QuantSpec(method=name)
        for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "mxfp8", "nvfp4")
    },
    **{f"turboquant{b}": QuantSpec(method="turboquant_mse", bits=b) for b in (1, 2, 3, 4, 5)},
    **{f"kivi{b}g{g}": QuantSpec(method="kivi", bits=b, group_size=g) for b in (2, 3, 4, 8) for g in (32, 64)},
    **{f"polarquant{b}": QuantSpec(method="polarquant", bits=b) for b in (3, 4, 5, 6)},
    "none": QuantSpec(method="none"),
}


@dataclass(frozen=True)
class Case:
    key: QuantSpec = A4
    value: QuantSpec = A4
    dim: int = 128
    group: int = 8
    heads: int = 1
    batch: int = 1
    packed: int = 45
    head: int = 0
    tail: int = 0
    first: int = 0
    dtype: mx.Dtype = mx.float32
    matrix: bool = True
    layout: str = "cuda"
    simdgroups: int = 4
    threadgroups: int = 2
    ahead: int = 1
    scale: float = 0.11
    spread: float = 1.0
    value_dim: int | None = None  # None: as keys
    cap: float | None = None
    bias: tuple[bool, bool, mx.Dtype] | None = None  # whether it differs by batch entry and by head, and its type
    hidden: int = 0  # columns that the bias hides, from the first one on
    sinks: mx.Dtype | None = None
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.key.label}-{self.value.label}-d{self.dim}-{self.value_dim}-g{self.group}-{self.layout}"


def vectors(rng, shape, dtype):
    return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)


def wide(x):
    return np.array(x.astype(mx.float32)).astype(np.float64)


def packed(spec, side, x, first):
    """What a kernel is given for x [B, H, T, D] on a side, and the numbers it stands for in float64.

    Methods that encode blocks of tokens get whole ones, of which the last tokens do not count.
    """
    quantizer = base.build(base.for_side(spec, side), x.shape[-1], 7)
    count = x.shape[2]
    parts = quantizer.encode(mx.pad(x, [(0, 0), (0, 0), (0, -count % quantizer.block_tokens), (0, 0)], mode="edge"))
    form = quantizer.form()
    meaning = np.array(quantizer.decode(parts)).astype(np.float64)[:, :, first:count]
    if form.meta == 0:
        return DenseSide(parts[form.codes_name], first), meaning
    return PackedSide(form, parts, first), meaning


def scored(case: Case, rng, scores):
    """What the kernel is told to do with logits [B, H, R, T], and what becomes of them in float64."""
    batch, heads, group, columns = scores.shape
    bias = sinks = None
    if case.cap is not None:
        scores = case.cap * np.tanh(scores / case.cap)
    if case.bias is not None:
        by_batch, by_head, dtype = case.bias
        extra = case.hidden % 3  # columns before those of the runs
        bias = rng.standard_normal((batch if by_batch else 1, heads * group if by_head else 1, 1, columns + extra))
        bias[..., extra : extra + case.hidden] = -6e4
        bias = mx.array(bias.astype(np.float32)).astype(dtype)
        meaning = np.broadcast_to(wide(bias), (batch, heads * group, 1, columns + extra))
        scores = scores + meaning.reshape(batch, heads, group, -1)[..., extra:]
    if case.sinks is not None:
        sinks = vectors(rng, (heads * group,), case.sinks) * 4
        learned = np.broadcast_to(wide(sinks).reshape(heads, group, 1), (*scores.shape[:-1], 1))
        scores = np.concatenate([learned, scores], axis=-1)
    return Scoring(case.cap, bias, sinks), scores


def error_of(case: Case, host: Host | None = None, launch: float = 0.0) -> float:
    """Relative error of the kernel against float64 on fresh tensors."""
    rng = np.random.default_rng([case.seed, case.dim, case.group, case.packed])
    value_dim = case.value_dim or case.dim
    half = case.dtype if case.dtype != mx.float32 else mx.float16
    shape = (case.batch, case.heads)
    q = vectors(rng, (case.batch, case.heads * case.group, 1, case.dim), mx.float32) * case.spread
    q = q.astype(case.dtype)
    keys, values, runs = [], [], {}
    for name, count in (("head", case.head), ("packed", case.packed), ("tail", case.tail)):
        if not count:
            continue
        extra = case.first if name == "packed" else 0
        k, v = (vectors(rng, (*shape, count + extra, dim), half) for dim in (case.dim, value_dim))
        if name == "packed":
            (key, k), (value, v) = packed(case.key, "key", k, extra), packed(case.value, "value", v, extra)
        else:
            key, value, k, v = DenseSide(k), DenseSide(v), wide(k), wide(v)
        runs[name] = TokenRun(key, value, count)
        keys.append(k)
        values.append(v)
    k, v = np.concatenate(keys, axis=2), np.concatenate(values, axis=2)
    grouped = wide(q).reshape(*shape, case.group, case.dim)
    scores = case.scale * np.einsum("bhgd,bhtd->bhgt", grouped, k)
    scoring, scores = scored(case, rng, scores)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = (shares / shares.sum(axis=-1, keepdims=True))[..., -k.shape[2] :]
    expected = np.einsum("bhgt,bhtd->bhgd", shares, v).reshape(*q.shape[:3], value_dim)

    device = Device(case.threadgroups, 0 if case.matrix else 16, case.simdgroups, case.ahead, launch)
    attention = DecodeAttention(host or Host(case.layout, seed=case.seed), device)
    out, _ = attention(q, case.scale, runs.get("packed"), head=runs.get("head"), tail=runs.get("tail"), scoring=scoring)
    assert out.dtype == case.dtype
    assert out.shape == expected.shape
    return float(np.linalg.norm(wide(out) - expected) / np.linalg.norm(expected))
