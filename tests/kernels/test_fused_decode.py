"""The fused decode kernel against float64, in the host emulation of both GPUs' lane orders."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from emulation.host import Host
from fused_cases import FORMATS, LIMITS, Case, error_of, packed, vectors, wide

from swarm.kernels import rotation
from swarm.kernels.errors import SpecError
from swarm.kernels.fused.decode import DecodeAttention
from swarm.kernels.fused.operands import DenseSide, Frame, Scoring, TokenRun
from swarm.kernels.fused.plan import Device
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec


def check(case: Case) -> None:
    error = error_of(case)
    assert error < LIMITS[case.dtype], f"{case}: {error:.2e}"  # NaN, where nothing was written, fails too


def fits(spec: QuantSpec, dim: int, side: base.Side) -> bool:
    try:
        base.method(spec.method).check_head_dim(base.for_side(spec, side), dim)
    except SpecError:
        return False
    return True


USUAL = ("affine2g32", "affine3g64", "affine4g64", "affine6g64", "affine8g128", "q4_0", "q4_1", "q5_0", "q5_1",
         "q8_0", "iq4_nl", "mxfp4", "mxfp8", "nvfp4",
         "turboquant1", "turboquant3", "turboquant4")  # fmt: skip
PACKED = [name for name in FORMATS if name != "none"]


@pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in PACKED]
)
def test_every_format_by_the_matrix_body(name):
    check(Case(key=FORMATS[name], value=FORMATS[name], layout="metal" if len(name) % 2 else "cuda"))


BEFORE_PRODUCTS = ("q5_0", "q5_1", "nvfp4", "kivi4g32", "polarquant4", "turboquant4")


@pytest.mark.parametrize("name", BEFORE_PRODUCTS)
def test_numbers_that_float16_tiles_take_with_their_scales(name):
    """Two runs of packed tokens that do not begin with a block, a partial tile, 16-bit tokens around them."""
    spec = FORMATS[name]
    small = name in ("q5_1", "polarquant4")
    check(Case(key=spec, value=spec, dim=64 if small else 128, group=5, packed=37, first=9, head=2, tail=3 * small,
               batch=2, dtype=mx.float16, layout="metal" if len(name) % 2 else "cuda"))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 192, 256, 512])
@pytest.mark.parametrize("name", [*BEFORE_PRODUCTS, "kivi2g64", "kivi3g32", "kivi8g32", "polarquant3", "polarquant6"])
def test_numbers_with_their_scales_at_every_head_size(name, dim, dtype):
    if fits(FORMATS[name], dim, "key") and fits(FORMATS[name], dim, "value"):
        for matrix in (True, False):
            check(
                Case(key=FORMATS[name], value=FORMATS[name], dim=dim, packed=50, first=33, dtype=dtype, matrix=matrix)
            )


@pytest.mark.parametrize("seed", range(4))
def test_any_combination_of_template_arguments(seed):
    """A sample of what `test_every_combination_of_formats` runs through, over all other arguments as well."""
    rng = np.random.default_rng([11, seed])
    dim, value_dim = (int(dim) for dim in rng.choice([64, 80, 96, 128, 192, 256], 2))
    matrix = bool(rng.random() < 0.6)
    fitting = [
        [name for name, spec in FORMATS.items() if fits(spec, size, side) and not (matrix and name == "none")]
        for side, size in (("key", dim), ("value", value_dim))
    ]
    case = Case(
        *(FORMATS[str(rng.choice(names))] for names in fitting), dim, int(rng.integers(1, 17)), value_dim=value_dim,
        heads=int(rng.integers(1, 3)), batch=int(rng.integers(1, 3)), packed=int(rng.integers(1, 90)),
        head=int(rng.choice([0, 4])), tail=int(rng.choice([0, 19])), first=int(rng.choice([0, 5])),
        dtype=[mx.float32, mx.float16, mx.bfloat16][rng.integers(3)], matrix=matrix,
        layout=str(rng.choice(["cuda", "metal"])), simdgroups=int(rng.choice([4, 8])),
        threadgroups=int(rng.choice([1, 4, 32])), ahead=int(rng.integers(2)), seed=seed,
    )  # fmt: skip
    check(case)


@pytest.mark.parametrize(
    "name",
    [
        "affine4g64",
        "affine2g32",
        "affine8g128",
        "q4_0",
        "q8_0",
        "turboquant3",
        "none",
        "q5_1",
        "nvfp4",
        "kivi2g32",
        "polarquant5",
    ],
)
def test_formats_by_the_scalar_body(name):
    check(Case(key=FORMATS[name], value=FORMATS[name], group=2, matrix=False))


@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 192, 256, 512])
def test_head_sizes(dim):
    spec = FORMATS["turboquant4"] if dim == 80 else QuantSpec(method="affine", bits=4, group_size=32)
    check(Case(key=spec, value=spec, dim=dim, group=4, packed=37, layout="metal" if dim in (80, 256) else "cuda"))


@pytest.mark.parametrize("group", [1, 3, 7, 9, 16])
def test_query_groups_by_the_matrix_body(group):
    check(Case(group=group, heads=2, packed=20))


@pytest.mark.parametrize("group", [1, 5, 16])
def test_query_groups_by_the_scalar_body(group):
    check(Case(group=group, heads=2, packed=20, matrix=False))


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32], ids=str)
def test_sixteen_heads_of_512_channels_share_a_threadgroup(dtype):
    """In 16 bit; two terms of each query would not leave room there, so in float32 two threadgroups share them."""
    check(Case(dim=512, group=16, packed=33, dtype=dtype))


@pytest.mark.parametrize(("group", "matrix"), [(128, True), pytest.param(17, False, marks=pytest.mark.slow)])
def test_large_query_groups_are_cut_into_sets(group, matrix):
    check(Case(dim=64, group=group, heads=2, packed=20, tail=3, matrix=matrix, layout="metal"))


LATENTS = [("affine4g64", "q8_0", True, "metal", mx.float16), ("q4_0", "affine4g32", False, "cuda", mx.float32)]
MORE_LATENTS = [  # of 512 + 64 channels
    ("affine4g64", "affine4g64", True, "cuda", mx.float32), ("turboquant3", "turboquant4", True, "metal", mx.bfloat16),
    ("affine8g32", "iq4_nl", True, "cuda", mx.float16), ("none", "none", False, "metal", mx.float16),
    ("affine3g64", "turboquant4", False, "metal", mx.float32),
]  # fmt: skip


@pytest.mark.parametrize(
    ("latent", "rotary", "matrix", "layout", "dtype"),
    [*LATENTS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_LATENTS)],
)
def test_the_rotary_part_of_a_latent_is_a_second_packed_side(latent, rotary, matrix, layout, dtype):
    """Scores of both, values of the latent, over all three runs, with a mask and without."""
    rng = np.random.default_rng([3, len(latent)])
    small = (latent, rotary, matrix, layout, dtype) in LATENTS
    dims, heads = ((128, 64), 9) if small else ((512, 64), 20)
    half = mx.float16 if dtype == mx.float32 else dtype
    runs, keys = {}, []
    for name, count in (("head", 3), ("packed", 37), ("tail", 18)):
        x = [vectors(rng, (2, 1, count + 2, dim), half) for dim in dims]
        specs = [QuantSpec(method="none") if name != "packed" else FORMATS[form] for form in (latent, rotary)]
        sides = [packed(spec, side, part, 2) for spec, side, part in zip(specs, ("key", "value"), x, strict=True)]
        runs[name] = TokenRun(sides[0][0], sides[1][0], count)
        keys.append([meaning for _, meaning in sides])
    values, rest = (np.concatenate(parts, axis=2) for parts in zip(*keys, strict=True))
    q, bias = vectors(rng, (2, heads, 1, sum(dims)), dtype), vectors(rng, (2, heads, 1, 58), dtype)
    for scoring in (Scoring(), Scoring(bias=bias)) if dtype == mx.float16 else (Scoring(),):
        attention = DecodeAttention(Host(layout), Device(8, 0 if matrix else 20, 4, 1))
        out, _ = attention(q, 0.05, runs["packed"], head=runs["head"], tail=runs["tail"], scoring=scoring, latent=True)
        scores = 0.05 * wide(q) @ np.concatenate([values, rest], axis=-1).swapaxes(-1, -2)
        scores += 0 if scoring.bias is None else wide(bias)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        expected = shares / shares.sum(axis=-1, keepdims=True) @ values
        assert out.shape == expected.shape
        assert np.linalg.norm(wide(out) - expected) / np.linalg.norm(expected) < LIMITS[dtype]


DIFFERENT = [(192, 128, True, "cuda"), (64, 256, False, "metal")]
REST = [(96, 64, True, "metal"), (96, 64, False, "cuda"), (192, 128, False, "metal"), (64, 256, True, "cuda"),
        (256, 128, True, "metal"), (512, 64, True, "cuda"), (64, 512, True, "cuda")]  # fmt: skip


@pytest.mark.parametrize(
    ("key_dim", "value_dim", "matrix", "layout"),
    [*DIFFERENT, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)],
)
def test_keys_and_values_of_different_sizes(key_dim, value_dim, matrix, layout):
    spec = QuantSpec(method="affine", bits=4, group_size=32)
    case = Case(key=spec, value=spec, dim=key_dim, value_dim=value_dim, group=5 if matrix else 2, matrix=matrix)
    check(replace(case, layout=layout, packed=37, head=3, tail=18, batch=2))


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 30))])
def test_caps_biases_and_sinks(seed):
    """Any of them, over any runs of tokens; what the bias hides first may be whole parts."""
    rng = np.random.default_rng([7, seed])
    dtype = (mx.float16, mx.float32, mx.bfloat16)[seed % 3]
    case = Case(
        dim=64, group=int(rng.choice([1, 3, 9, 20])), heads=2, batch=2, packed=int(rng.integers(1, 90)),
        head=int(rng.choice([0, 5])), tail=int(rng.choice([0, 19])), matrix=bool(seed % 2), dtype=dtype,
        layout=("cuda", "metal")[seed % 2], threadgroups=int(rng.choice([1, 30])),
        cap=(2.0, None, 50.0)[int(rng.integers(3))], sinks=(None, dtype, mx.float32)[int(rng.integers(3))], seed=seed,
    )  # fmt: skip
    hidden = int(rng.integers(case.head + case.packed + case.tail))
    bias = (bool(rng.integers(2)), bool(rng.integers(2)), dtype) if rng.random() < 0.7 else None
    check(replace(case, bias=bias, hidden=hidden if bias else 0))


@pytest.mark.parametrize(("matrix", "launch"), [(True, 0.0), (False, 9.0)])
def test_a_sink_may_outweigh_every_token_or_none(matrix, launch):
    """Also where the tokens of the part that holds the sinks are hidden, and where one part is the output itself."""
    case = Case(dim=64, group=3, packed=60, threadgroups=8, matrix=matrix, sinks=mx.float32, seed=2)
    for hidden in (0, 50):
        for spread in (1e-3, 1.0, 40.0):
            shown = replace(case, hidden=hidden, bias=(False, False, mx.float32), spread=spread)
            assert error_of(shown, launch=launch) < LIMITS[case.dtype]


@pytest.mark.parametrize("name", ["affine4g64", *(pytest.param(n, marks=pytest.mark.slow) for n in ("q8_0", "iq4_nl"))])
def test_latent_attention_reads_one_side_as_keys_and_as_values(name):
    """Many heads over one latent of 512 channels, with the scores of the rotary part added."""
    rng = np.random.default_rng(3)
    side, latent = packed(FORMATS[name], "key", vectors(rng, (2, 1, 21, 512), mx.float16), 0)
    q = vectors(rng, (2, 20, 1, 512), mx.float16)
    bias = vectors(rng, (2, 20, 1, 21), mx.float16)
    attention = DecodeAttention(Host("metal"), Device(2, 0, 4, 1))
    out, _ = attention(q, 0.07, TokenRun(side, side, 21), scoring=Scoring(bias=bias))
    scores = 0.07 * wide(q) @ latent.swapaxes(-1, -2) + wide(bias)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = shares / shares.sum(axis=-1, keepdims=True) @ latent
    assert np.linalg.norm(wide(out) - expected) / np.linalg.norm(expected) < LIMITS[mx.float16]


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

        def run(self, kernel, arrays):
            self.entries = (*self.entries, kernel.entry)
            return super().run(kernel, arrays)

    group = 13 if matrix else 3
    case = Case(packed=70, group=group, heads=2, batch=2, matrix=matrix, layout=layout, threadgroups=64)
    for launch, entries in ((9.0, ("decode_whole",)), (0.0, ("decode_packed", "merge"))):
        host = Counting(layout)
        assert error_of(case, host, launch) < LIMITS[case.dtype]
        assert host.entries == entries


@pytest.mark.parametrize(
    ("scale", "spread"), [(1.0, 1.0), (0.0, 1.0), (-0.3, 1.0), (0.01, 1e-3), (0.5, 30.0), (1e-4, 3e4)]
)
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
    x = vectors(rng, (1, 2, 70, 64), mx.float16)
    side, _ = packed(QuantSpec(method="affine", bits=4, group_size=32), "key", x, 0)
    q = vectors(rng, (1, 16, 1, 64), mx.float16)
    out, _ = DecodeAttention(host, Device(6, 0, 4, 1))(q, 0.2, TokenRun(side, side, 70))
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
    (key, keys), (value, values) = packed(spec, "key", k, 0), packed(spec, "value", v, 0)
    q = mx.ones((1, 8, 1, dim), dtype=mx.float32)
    out, _ = DecodeAttention(Host(layout), Device(2, 0, 4, 0))(q, 0.7, TokenRun(key, value, tokens))
    scores = 0.7 * keys[0, 0].sum(axis=-1)
    shares = np.exp(scores - scores.max())
    expected = (shares / shares.sum()) @ values[0, 0]
    assert np.linalg.norm(np.array(out)[0, 0, 0] - expected) / np.linalg.norm(expected) < LIMITS[mx.float32]


@pytest.mark.slow
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256, 512])
@pytest.mark.parametrize("layout", ["cuda", "metal"])
@pytest.mark.parametrize("matrix", [True, False])
def test_every_combination_of_formats(dim, layout, matrix):
    failures = []
    specs = {name: spec for name, spec in FORMATS.items() if fits(spec, dim, "key") and fits(spec, dim, "value")}
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


FRAMED = [(128, 80, 8, 0, "cuda", mx.float16), (96, 192, 3, 17, "metal", mx.float32)]
MORE_FRAMED = [(64, 512, 16, 5, "cuda", mx.bfloat16), (256, 64, 5, 0, "metal", mx.float16),
               (128, 128, 16, 9, "metal", mx.float16), (192, 256, 1, 3, "cuda", mx.float32)]  # fmt: skip


@pytest.mark.parametrize(
    ("dim", "value_dim", "group", "around", "layout", "dtype"),
    [*FRAMED, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_FRAMED)],
)
def test_queries_and_outputs_are_mapped_in_the_same_launches(dim, value_dim, group, around, layout, dtype):
    """Keys turned and scaled per head, values turned alone, or the other way round, beside 16-bit runs that are not."""
    rng = np.random.default_rng([5, dim, group])
    half = mx.float16 if dtype == mx.float32 else dtype
    spec, heads, count = QuantSpec(method="mxfp8"), 2, 41
    q = vectors(rng, (2, heads * group, 1, dim), dtype)
    for scaled, matrix in ((0, True), (1, False)):
        sides, columns = [], []
        grouped = wide(q).reshape(2, heads, group, dim)
        for i, size in enumerate((dim, value_dim)):
            order, rows = (size & -size, 1) if i != scaled else (4, heads)
            factors = np.sign(rng.standard_normal((1, size))) * np.exp(0.3 * rng.standard_normal((rows, size)))
            factors = mx.array((factors * order**-0.5).astype(np.float32))
            turn = np.kron(np.eye(size // order), rotation.hadamard(order) * order**0.5)
            side, meaning = packed(spec if size % 32 == 0 else FORMATS["turboquant4"],
                                   "key", vectors(rng, (2, heads, count, size), half), 0)  # fmt: skip
            sides.append(replace(side, frame=Frame(order, factors)))
            columns.append(((meaning @ turn.T) * wide(factors)[:, None], []))
        runs = {}
        for name, tokens in (("head", 3), ("tail", around)) if around else ():
            pair = [vectors(rng, (2, heads, tokens, size), half) for size in (dim, value_dim)]
            runs[name] = TokenRun(*(DenseSide(x) for x in pair), tokens)
            for (_, more), x in zip(columns, pair, strict=True):
                more.append(wide(x))
        k, v = (np.concatenate([mapped, *more], axis=2) for mapped, more in columns)
        logits = 0.1 * grouped @ k.swapaxes(-1, -2)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        expected = (shares / shares.sum(axis=-1, keepdims=True) @ v).reshape(2, heads * group, 1, value_dim)
        attention = DecodeAttention(Host(layout), Device(6, 0 if matrix else 20, 4, 1))
        out, rest = attention(q, 0.1, TokenRun(*sides, count), **runs)
        assert rest is None
        assert out.dtype == dtype
        assert np.linalg.norm(wide(out) - expected) / np.linalg.norm(expected) < LIMITS[dtype]


@pytest.mark.parametrize("shape", [(1, 8, 2, 128), (1, 8, 1, 72), (1, 8, 1, 528), (1, 7, 1, 128)])
def test_shapes_it_does_not_take_are_refused(shape):
    rng = np.random.default_rng(0)
    side = DenseSide(vectors(rng, (1, 2, 5, shape[-1]), mx.float16))
    with pytest.raises(SpecError):
        DecodeAttention(Host(), Device(2, 0, 4, 0))(mx.zeros(shape), 0.1, None, tail=TokenRun(side, side, 5))


def test_no_token_at_all_is_refused():
    with pytest.raises(SpecError, match="0 tokens"):
        DecodeAttention(Host(), Device(2, 0, 4, 0))(mx.zeros((1, 8, 1, 64)), 0.1, None)
