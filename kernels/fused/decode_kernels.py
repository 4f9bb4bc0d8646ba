"""The kernels of decode attention for one geometry: their arguments, arrays and grids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from swarm.kernels.fused import sources
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS, Array, DType, Kernel
from swarm.kernels.fused.plan import DecodePlan, Device

_MERGE_SIMDGROUPS = 8
_MERGE_CHANNELS = 128  # of a threadgroup

Described = tuple[tuple[PackedForm, tuple[Array, ...]], tuple[PackedForm, tuple[Array, ...]]]


class Sides(NamedTuple):
    """KV heads, and head sizes of a run's keys and values; whether they are latents and the rest of keys."""

    heads: int
    key_dim: int
    value_dim: int
    latent: bool

    @property
    def out_dim(self) -> int:
        """The head size of the output."""
        return self.key_dim if self.latent else self.value_dim


class Turn(NamedTuple):
    """The order of a frame's Hadamard matrices, and from the factors of one KV head to those of the next."""

    order: int
    step: int


@dataclass(frozen=True)
class Geometry:
    """What decides the kernels of a decode attention, besides the formats: made once per geometry."""

    shape: tuple[int, ...]  # of the queries
    sides: Sides
    set_heads: int  # query heads of a threadgroup
    query: DType
    out: DType
    half: DType | None  # of the 16-bit runs
    chosen: DecodePlan
    apart: bool
    room: int  # for recent tokens, 0 where there are none
    scored: tuple[tuple[str, Any], ...]  # template arguments of a kernel that does something with scores
    aligned: bool  # whether every sequence says where it begins
    frames: tuple[Turn | None, Turn | None]  # of queries and of outputs, where kernels map them

    @property
    def sets(self) -> int:
        """Sets of query heads of one KV head."""
        return -(-self.shape[1] // self.sides.heads // self.set_heads)


def kernels_of(device: Device, of: Geometry, forms: Described, types: list[DType]) -> tuple[Kernel, Kernel | None]:
    """The first launch, every threadgroup one part of one run, and the merge, None where there is one part."""
    import mlx.core as mx

    batch, q_heads, _, _ = of.shape
    chosen, names = of.chosen, ["q_frame"]
    template: list[tuple[str, Any]] = [
        ("K_DIM", of.sides.key_dim),
        ("V_DIM", of.sides.value_dim),
        ("LATENT", int(of.sides.latent)),
        ("Q", of.query),
        ("GROUP", q_heads // of.sides.heads),
        ("GQA", of.set_heads),
        ("MATRIX", chosen.terms),
        ("SIMDS", device.simdgroups),
        ("AHEAD", device.ahead),
        ("ROOM", of.room),
    ]
    for prefix, (form, stored) in zip("kv", forms, strict=True):
        template += form.arguments(f"{prefix.upper()}_")
        template.append((f"{prefix.upper()}S", stored[1].dtype))
        names += [f"{prefix}_codes", f"{prefix}_scales", f"{prefix}_biases"]
    names.append("recent")
    if of.aligned:
        names.append("starts")
    if of.half is not None:
        names += ["q", "head_k", "head_v", "tail_k", "tail_v"]
        template += [("H", of.half), ("H_CODES", 4 if of.half == mx.bfloat16 else 3)]
    if of.scored:
        names += ["bias", "sinks"]
        template += of.scored
    if of.frames[0] is not None:
        names.append("k_factors")
        template += [("K_ORDER", of.frames[0].order), ("K_FACTORS", of.frames[0].step)]
    rows = (batch, q_heads, chosen.parts)
    single = chosen.parts == 1 and of.half is None and of.frames[1] is None
    outputs: tuple[tuple[str, tuple[int, ...], DType], ...] = (
        ("partials", (*rows, of.sides.out_dim), mx.float32),
        ("leads", (max(MIN_INPUT_ELEMENTS, 2 * math.prod(rows)),), mx.float32),
    )
    if single:
        outputs = (("out", (*of.shape[:3], of.sides.out_dim), of.out),)
        template.append(("T", of.out))
    entry = "decode_whole" if single else "decode_packed" if of.half is None else "decode"
    first = Kernel(
        entry
        + (sources.ALIGNED if of.aligned else "")
        + (sources.FRAMED if of.frames[0] else "")
        + (sources.SCORED if of.scored else ""),
        tuple(template),
        (*zip(names, types, strict=True), ("counts", mx.float32)),
        outputs,
        (chosen.parts, of.sides.heads * of.sets, batch),
        32 * device.simdgroups,
    )
    return first, None if single else _merge(of)


def _merge(of: Geometry) -> Kernel:
    import mlx.core as mx

    batch, heads, _, _ = of.shape
    dim, out = of.sides.out_dim, (*of.shape[:3], of.sides.out_dim)
    turn = of.frames[1]
    outputs = 2 if (of.apart or turn) and of.half is not None else 1
    template: tuple[tuple[str, Any], ...] = (
        ("DIM", dim),
        ("SIMDS", _MERGE_SIMDGROUPS),
        ("OUTPUTS", outputs),
        ("T", of.out),
    )
    names: tuple[str, ...] = ("partials", "leads", "counts")
    shape, parts = (outputs, *out) if outputs > 1 else out, -(-dim // _MERGE_CHANNELS)
    if turn is not None:
        template += (("ORDER", turn.order), ("FACTORS", turn.step), ("GROUP", heads // of.sides.heads))
        names, shape, parts = ("partials", "leads", "factors", "counts"), out, 1
    return Kernel(
        "merge" if turn is None else "merge" + sources.FRAMED,
        template,
        tuple((name, mx.float32) for name in names),
        (("out", shape, of.out),),
        (parts, heads, batch),
        32 * _MERGE_SIMDGROUPS,
    )
