"""The fused decode kernel against float64, in the host emulation of both GPUs' lane orders."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import pytest

from swarm.kernels.errors import SpecError
from swarm.kernels.fused.decode import DecodeAttention, DenseSide, PackedSide, Run
from swarm.kernels.fused.host import Host
from swarm.kernels.fused.plan import Device
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

LIMITS = {mx.float32: 1e-3, mx.float16: 2e-3, mx.bfloat16: 2e-3}

A4 = QuantSpec(method="affine", bits=4, group_size=64)
FORMATS = {
    **{f"affine{b}g{g}": QuantSpec(method="affine", bits=b, group_size=g) for b in (2, 4, 8) for g in (32, 64, 128)},
    **{f"affine{b}g64": QuantSpec(method="affine", bits=b, group_size=64) for b in (3, 5, 6)},
    **{name: QuantSpec(method=name) for name in ("q4_0", "q4_1", "q8_0", "iq4_nl")},
    **{f"turboquant{b}": QuantSpec(method="turboquant_mse", bits=b) for b in (1, 2, 3, 4, 5)},
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
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.key.label}-{self.value.label}-d{self.dim}-g{self.group}-{self.layout}"


def _vectors(rng, shape, dtype):
    return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)


def _wide(x):
    return np.array(x.astype(mx.float32)).astype(np.float64)


def _packed(spec, dim, x, first):
    """What a kernel is given for x [B, H, T, D], and the numbers it stands for in float64."""
    quantizer = base.build(spec, dim, 7)
    parts = quantizer.encode(x)
    form = quantizer.form()
    meaning = np.array(quantizer.decode(parts)).astype(np.float64)[:, :, first:]
    if form.meta == 0:
        return DenseSide(parts[form.codes_name], first), meaning
    return PackedSide(form, parts, first), meaning


def error_of(case: Case, host: Host | None = None, launch: float = 0.0) -> float:
    """Relative error of the kernel against float64 on fresh tensors."""
    rng = np.random.default_rng([case.seed, case.dim, case.group, case.packed])
    half = case.dtype if case.dtype != mx.float32 else mx.float16
    shape = (case.batch, case.heads)
    q = _vectors(rng, (case.batch, case.heads * case.group, 1, case.dim), mx.float32) * case.spread
    q = q.astype(case.dtype)
    keys, values, runs = [], [], {}
    for name, count in (("head", case.head), ("packed", case.packed), ("tail", case.tail)):
        if not count:
            continue
        extra = case.first if name == "packed" else 0
        k, v = (_vectors(rng, (*shape, count + extra, case.dim), half) for _ in range(2))
        if name == "packed":
            (key, k), (value, v) = _packed(case.key, case.dim, k, extra), _packed(case.value, case.dim, v, extra)
        else:
            key, value, k, v = DenseSide(k), DenseSide(v), _wide(k), _wide(v)
        runs[name] = Run(key, value, count)
        keys.append(k)
        values.append(v)
    k, v = np.concatenate(keys, axis=2), np.concatenate(values, axis=2)
    grouped = _wide(q).reshape(*shape, case.group, case.dim)
    scores = case.scale * np.einsum("bhgd,bhtd->bhgt", grouped, k)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = np.einsum("bhgt,bhtd->bhgd", shares / shares.sum(axis=-1, keepdims=True), v).reshape(q.shape)

    device = Device(case.threadgroups, 0 if case.matrix else 16, case.simdgroups, case.ahead, launch)
    attention = DecodeAttention(host or Host(case.layout, seed=case.seed), device)
    out, _ = attention(q, case.scale, runs.get("packed"), head=runs.get("head"), tail=runs.get("tail"))
    assert out.dtype == case.dtype
    return float(np.linalg.norm(_wide(out) - expected) / np.linalg.norm(expected))


def check(case: Case) -> None:
    error = error_of(case)
    assert error < LIMITS[case.dtype], f"{case}: {error:.2e}"  # NaN, where nothing was written, fails too


def fits(spec: QuantSpec, dim: int) -> bool:
    try:
        base.method(spec.method).check_head_dim(spec, dim)
    except SpecError:
        return False
    return True


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_by_the_matrix_body(name):
    spec = FORMATS[name]
    if spec.method == "none":
        pytest.skip("16-bit tokens go through the scalar body")
    check(Case(key=spec, value=spec, layout="metal" if len(name) % 2 else "cuda"))


@pytest.mark.parametrize("name", ["affine4g64", "affine2g32", "affine8g128", "q4_0", "q8_0", "turboquant3", "none"])
def test_formats_by_the_scalar_body(name):
    check(Case(key=FORMATS[name], value=FORMATS[name], group=2, matrix=False))


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256, 512])
def test_head_sizes(dim):
    spec = FORMATS["turboquant4"] if dim == 80 else QuantSpec(method="affine", bits=4, group_size=32)
    check(Case(key=spec, value=spec, dim=dim, group=4, packed=37, layout="metal" if dim in (80, 256) else "cuda"))


@pytest.mark.parametrize("group", [1, 3, 7, 9, 16])
def test_query_groups_by_the_matrix_body(group):
    check(Case(group=group, heads=2, packed=20))


@pytest.mark.parametrize("group", [1, 5, 16])
def test_query_groups_by_the_scalar_body(group):
    check(Case(group=group, heads=2, packed=20, matrix=False))


def test_sixteen_heads_of_512_channels_share_a_threadgroup():
    check(Case(dim=512, group=16, packed=33))


@pytest.mark.parametrize(
    ("key", "value"), [("affine4g64", "q8_0"), ("turboquant2", "affine8g32"), ("none", "affine4g64"), ("q4_0", "none")]
)
def test_mixed_formats(key, value):
    matrix = "none" not in (key, value)
    check(Case(key=FORMATS[key], value=FORMATS[value], head=4, tail=19, dtype=mx.float16, matrix=matrix))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("counts", [(0, 1, 0), (5, 0, 3), (0, 0, 1), (4, 70, 90), (0, 16, 0), (1, 17, 1)])
def test_sinks_packed_and_tail_in_one_pass(dtype, counts):
    head, packed, tail = counts
    check(Case(head=head, packed=packed, tail=tail, dtype=dtype, batch=2, heads=2, threadgroups=12))


@pytest.mark.parametrize("first", [1, 16, 37])
def test_a_window_begins_late(first):
    check(Case(first=first, packed=50, head=2, tail=5))


@pytest.mark.parametrize("threadgroups", [1, 3, 64])
@pytest.mark.parametrize("layout", ["cuda", "metal"])
def test_any_number_of_parts(threadgroups, layout):
    check(Case(packed=200, heads=2, threadgroups=threadgroups, layout=layout, simdgroups=8))


@pytest.mark.parametrize("matrix", [True, False])
@pytest.mark.parametrize("layout", ["cuda", "metal"])
def test_one_part_is_written_as_the_output(layout, matrix):
    """Where a second launch costs more than it saves, there is none, and nothing to merge."""

    class Counting(Host):
        entries = ()

        def run(self, call):
            self.entries = (*self.entries, call.entry)
            return super().run(call)

    group = 13 if matrix else 3
    case = Case(packed=70, group=group, heads=2, batch=2, matrix=matrix, layout=layout, threadgroups=64)
    for launch, entries in ((9.0, ("decode_whole",)), (0.0, ("decode_packed", "merge"))):
        host = Counting(layout)
        assert error_of(case, host, launch) < LIMITS[case.dtype]
        assert host.entries == entries


@pytest.mark.parametrize(("scale", "spread"), [(1.0, 1.0), (0.01, 1e-3), (0.5, 30.0), (1e-4, 3e4)])
def test_scale_is_an_argument_and_queries_may_have_any_size(scale, spread):
    for matrix in (True, False):
        check(Case(scale=scale, spread=spread, matrix=matrix, group=2))


def test_the_order_in_which_lanes_run_changes_nothing():
    case = Case(head=3, packed=60, tail=9, threadgroups=4)
    errors = {error_of(replace(case, seed=0)) for _ in range(2)}
    host = [Host("cuda", seed=seed) for seed in range(4)]
    assert len(errors) == 1
    outs = [_fixed_output(h) for h in host]
    assert all(np.array_equal(outs[0], out) for out in outs)


def _fixed_output(host):
    rng = np.random.default_rng(5)
    x = _vectors(rng, (1, 2, 70, 64), mx.float16)
    side, _ = _packed(QuantSpec(method="affine", bits=4, group_size=32), 64, x, 0)
    q = _vectors(rng, (1, 16, 1, 64), mx.float16)
    out, _ = DecodeAttention(host, Device(6, 0, 4, 1))(q, 0.2, Run(side, side, 70))
    return np.array(out.astype(mx.float32))


@pytest.mark.parametrize("layout", ["cuda", "metal"])
def test_scores_that_grow_along_the_context_do_not_overflow(layout):
    """Every tile raises the maximum, and value scales grow as well."""
    rng = np.random.default_rng(1)
    tokens, dim = 96, 64
    ramp = np.linspace(0.01, 60, tokens)[:, None].astype(np.float32)
    k = mx.array((rng.random((1, 1, tokens, dim)) * ramp).astype(np.float16))
    v = mx.array((rng.standard_normal((1, 1, tokens, dim)) * ramp * 30).astype(np.float16))
    spec = QuantSpec(method="affine", bits=4, group_size=64)
    (key, keys), (value, values) = _packed(spec, dim, k, 0), _packed(spec, dim, v, 0)
    q = mx.ones((1, 8, 1, dim), dtype=mx.float32)
    out, _ = DecodeAttention(Host(layout), Device(2, 0, 4, 0))(q, 0.7, Run(key, value, tokens))
    scores = 0.7 * keys[0, 0].sum(axis=-1)
    shares = np.exp(scores - scores.max())
    expected = (shares / shares.sum()) @ values[0, 0]
    assert np.linalg.norm(np.array(out)[0, 0, 0] - expected) / np.linalg.norm(expected) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256, 512])
@pytest.mark.parametrize("layout", ["cuda", "metal"])
@pytest.mark.parametrize("matrix", [True, False])
def test_every_combination_of_formats(dim, layout, matrix):
    failures = []
    specs = {name: spec for name, spec in FORMATS.items() if fits(spec, dim)}
    if matrix:
        specs.pop("none")
    for key in specs:
        for value in specs:
            for group in (4, 8, 13) if matrix else (1, 2, 3):
                case = Case(
                    key=specs[key], value=specs[value], dim=dim, group=group, layout=layout, matrix=matrix,
                    packed=19, tail=3, dtype=mx.float16,
                )  # fmt: skip
                error = error_of(case)
                if not error < LIMITS[mx.float16]:
                    failures.append((key, value, group, error))
    assert not failures


@pytest.mark.parametrize("shape", [(1, 8, 2, 128), (1, 8, 1, 72), (1, 17, 1, 128), (1, 7, 1, 128)])
def test_shapes_it_does_not_take_are_refused(shape):
    rng = np.random.default_rng(0)
    heads = 1 if shape[1] == 17 else 2
    side = DenseSide(_vectors(rng, (1, heads, 5, shape[-1]), mx.float16))
    with pytest.raises(SpecError):
        DecodeAttention(Host(), Device(2, 0, 4, 0))(mx.zeros(shape), 0.1, None, tail=Run(side, side, 5))


def test_no_token_at_all_is_refused():
    with pytest.raises(SpecError, match="0 tokens"):
        DecodeAttention(Host(), Device(2, 0, 4, 0))(mx.zeros((1, 8, 1, 64)), 0.1, None)
