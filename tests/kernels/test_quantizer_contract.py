"""What every quantization method must keep, over the discovered methods, all they offer, and many head sizes."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.kernels import plugins
from swarm.kernels.codec import Codec, Factors
from swarm.kernels.errors import NonFiniteError, SpecError, UnknownNameError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

METHODS = plugins.names(base.PACKAGE)
HEAD_SIZES = (64, 80, 96, 128, 256)


def offered(name):
    """Every specification of a method, rotations left at the default."""
    choices = base.method(name).choices
    for bits, group, axis in product(choices.bits, choices.group_sizes, choices.axes):
        yield QuantSpec(method=name, bits=bits, group_size=group, axis=axis)


SPECS = [spec for name in METHODS for spec in offered(name)]
DEFAULTS = [QuantSpec(method=name) for name in METHODS]
# These estimate inner products without bias and pay with variance: test_theory.py holds them to their own formula.
SKETCHES = {"qjl", "turboquant_prod"}


def label(value):
    return value.label if isinstance(value, QuantSpec) else str(value)


def codec_for(spec, head_dim, seed=0, **kwargs):
    side = base.method(spec.method).choices.sides[0]
    try:
        return Codec(spec, side, head_dim, seed, **kwargs)
    except SpecError as error:
        if str(head_dim) not in error.problem or not error.remedy:
            raise
        pytest.skip(f"{spec.label} refuses head size {head_dim}")


def restored(codec, packed):
    return np.array(codec.output(codec.decode(packed)))


def relative_error(codec, x):
    return np.mean((restored(codec, codec.encode(x)) - x) ** 2) / np.mean(x**2)


def tolerance(codec):
    """Four times less error per bit, with room for scales; small floats keep 3 bits of mantissa whatever the bits."""
    return max(2.5 * 4.0 ** -(codec.bits_per_value - 2), 2e-3)


def nbytes(packed):
    return sum(part.nbytes for part in packed.values())


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_packs_to_the_bytes_it_claims(spec, head_dim, vectors):
    codec = codec_for(spec, head_dim)
    tokens = 3 * codec.block_tokens
    x = vectors((2, 3, tokens, head_dim), seed=1)
    packed = codec.encode(mx.array(x))
    assert nbytes(packed) * 8 == pytest.approx(codec.bits_per_value * x.size, abs=1e-6)
    for part in packed.values():
        assert isinstance(part, mx.array)
        assert part.shape[:3] == (2, 3, 3)
    decoded = codec.decode(packed)
    assert decoded.dtype == mx.float32
    assert decoded.shape[:3] == x.shape[:3]
    assert restored(codec, packed).shape == x.shape


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_heads_tokens_and_batch_do_not_mix(spec, seed, vectors):
    codec = codec_for(spec, 128, seed)
    block = codec.block_tokens
    x = vectors((2, 2, 5 * block, 128), seed)
    whole = codec.encode(mx.array(x))
    part = codec.encode(mx.array(x[1:, 1:, block : 2 * block]))
    for name, values in whole.items():
        assert np.array_equal(np.array(values)[1:, 1:, 1:2], np.array(part[name])), name


@pytest.mark.parametrize("spec", DEFAULTS, ids=label)
def test_both_array_libraries_agree(spec, vectors):
    codec = codec_for(spec, 64)
    x = vectors((1, 2, 2 * codec.block_tokens, 64), seed=3)
    host, device = codec.pack(np, x), codec.pack(mx, mx.array(x))
    same = np.mean([np.mean(np.array(device[name]) == host[name]) for name in host])
    assert same > 0.999  # a sum in another order may move a value over an edge
    decoded = np.array(codec.unpack(mx, {name: mx.array(part) for name, part in host.items()}))
    np.testing.assert_allclose(decoded, codec.unpack(np, host), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_encoding_again_is_stable(spec, seed, vectors):
    codec = codec_for(spec, 64, seed)
    x = vectors((1, 2, 4 * codec.block_tokens, 64), seed).astype(np.float16).astype(np.float32)
    once = restored(codec, codec.encode(x))
    twice = restored(codec, codec.encode(once))
    first, second = np.linalg.norm(once - x), np.linalg.norm(twice - once)
    assert second <= 1.6 * first + 1e-3 * np.linalg.norm(x)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_error_is_bounded_for_its_bits(spec, vectors):
    codec = codec_for(spec, 128)
    x = vectors((1, 2, 4 * max(8, codec.block_tokens), 128), seed=2)
    if spec.method not in SKETCHES:
        assert relative_error(codec, x) < tolerance(codec)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-3, 1.0, 100.0, 3000.0])
@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_norms_from_tiny_to_huge_stay_finite(spec, scale, vectors):
    codec = codec_for(spec, 64)
    x = vectors((1, 1, 2 * codec.block_tokens, 64), seed=4)
    x *= scale / np.abs(x).max()
    out = restored(codec, codec.encode(x))
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 12 * scale + 1e-6


@pytest.mark.parametrize("constant", [0.0, 1.0, -0.37, 500.0])
@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_constant_vectors(spec, constant):
    codec = codec_for(spec, 64)
    x = np.full((1, 1, codec.block_tokens, 64), constant, np.float32)
    out = restored(codec, codec.encode(x))
    assert np.isfinite(out).all()
    if constant == 0:
        assert np.abs(out).max() == 0
    elif spec.method not in SKETCHES and codec.bits_per_value > 3:
        assert np.sqrt(np.mean((out - x) ** 2)) < 0.4 * abs(constant)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("spec", DEFAULTS, ids=label)
def test_what_is_no_number_is_a_clear_error(spec, bad):
    codec = codec_for(spec, 64)
    x = np.ones((1, 2, codec.block_tokens, 64), np.float32)
    x[0, 1, -1, 7] = bad
    for given_as in (x, mx.array(x)):
        with pytest.raises(NonFiniteError, match=spec.method):
            codec.encode(given_as)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_scores_follow_the_query_map(spec, vectors):
    codec = codec_for(spec, 64)
    k = vectors((1, 2, 4 * codec.block_tokens, 64), seed=6)
    q = np.random.default_rng(7).standard_normal((1, 2, 5, 64)).astype(np.float32)
    packed = codec.encode(k)
    framed = codec.query(q) @ codec.decode(packed).swapaxes(-1, -2)
    plain = q @ restored(codec, packed).swapaxes(-1, -2)
    np.testing.assert_allclose(framed, plain, rtol=2e-3, atol=2e-3 * np.abs(plain).max())


@pytest.mark.parametrize("spec", DEFAULTS, ids=label)
def test_the_seed_decides_everything_random(spec, vectors):
    x = vectors((1, 1, 32, 64), seed=8)
    first, again = (codec_for(spec, 64, seed=11).encode(x) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("rotation", ["none", "hadamard", "random"])
@pytest.mark.parametrize("name", METHODS)
def test_rotations_compose_or_are_refused(name, rotation, vectors):
    if rotation not in base.method(name).choices.rotations:
        with pytest.raises(SpecError, match="rotation"):
            QuantSpec(method=name, rotation=rotation)
        return
    codec = codec_for(QuantSpec(method=name, rotation=rotation), 96)
    x = vectors((1, 2, codec.block_tokens, 96), seed=9)
    if name not in SKETCHES:
        assert relative_error(codec, x) < tolerance(codec)


@pytest.mark.parametrize("name", METHODS)
def test_learned_factors_leave_the_format_as_it_is(name, vectors):
    kind = base.method(name)
    if "learned" not in kind.choices.scalings:
        with pytest.raises(SpecError, match="scaling"):
            QuantSpec(method=name, scaling="learned")
        return
    x = vectors((1, 2, 64, 64), seed=10)
    factors = Factors(np.abs(x).mean(axis=(0, 2)) + 0.1, clip=0.98)
    plain = codec_for(QuantSpec(method=name), 64)
    learned = codec_for(QuantSpec(method=name, scaling="learned"), 64, factors=factors)
    before, after = plain.encode(x), learned.encode(x)
    assert {key: (part.shape, part.dtype) for key, part in before.items()} == {
        key: (part.shape, part.dtype) for key, part in after.items()
    }
    if name not in SKETCHES:
        assert relative_error(learned, x) < tolerance(learned)


@pytest.mark.parametrize("name", METHODS)
def test_declares_itself(name):
    kind = base.method(name)
    assert kind.name == name
    assert kind.source
    assert kind.summary
    assert kind.formula
    assert kind.__doc__


@settings(max_examples=60, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    blocks=st.integers(1, 4),
    head_dim=st.sampled_from(HEAD_SIZES),
    spread=st.floats(0, 3),
)
def test_any_finite_input_gives_a_finite_output(spec, seed, batch, heads, blocks, head_dim, spread):
    side = base.method(spec.method).choices.sides[0]
    try:
        codec = Codec(spec, side, head_dim, seed)
    except SpecError:
        return
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, heads, blocks * codec.block_tokens, head_dim))
    x = (x * np.exp(spread * rng.standard_normal(x.shape))).astype(np.float32)
    x = np.clip(x, -2000, 2000)
    x[rng.random(x.shape) < 0.1] = 0
    packed = codec.encode(x)
    assert nbytes(packed) * 8 == pytest.approx(codec.bits_per_value * x.size, abs=1e-6)
    assert np.isfinite(restored(codec, packed)).all()


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"quik.*affine"):
        base.method("quik")
