"""What every quantization method must keep, over the discovered methods, all they offer, and many head sizes."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.kernels import contract, plugins
from swarm.kernels.codec import Codec, Factors
from swarm.kernels.errors import NonFiniteError, SpecError, UnknownNameError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec, variants

METHODS = plugins.names(base.PACKAGE)


SPECS = [spec for name in METHODS for spec in variants(name)]
DEFAULTS = [QuantSpec(method=name) for name in METHODS]
# These estimate inner products without bias and pay with variance: test_theory.py holds them to their own formula.
SKETCHES = {"qjl", "turboquant_prod"}
SHRINKING = {"turboquant_mse"}  # least mean squared error: what is decoded is shorter than what was encoded
SETTLING = {"affine"}  # mx.quantize moves the scale of what it has not seen yet so that one edge is exact


def label(value):
    return value.label if isinstance(value, QuantSpec) else str(value)


def codec_for(spec, head_dim, seed=0, **kwargs):
    return Codec(spec, base.method(spec.method).choices.sides[0], head_dim, seed, **kwargs)


def codecs(spec, seed=0):
    found = list(contract.codecs(spec, seed=seed))
    assert found
    return found


def restored(codec, packed):
    return np.array(codec.output(codec.decode(packed)))


def relative_error(codec, x):
    return np.mean((restored(codec, codec.encode(x)) - x) ** 2) / np.mean(x**2)


def tolerance(codec):
    """Four times less error per bit, with room for scales; small floats keep 3 bits of mantissa whatever the bits."""
    return max(2.5 * 4.0 ** -(codec.bits_per_value - 2), 2e-3)


def nbytes(packed):
    return sum(part.nbytes for part in packed.values())


@pytest.mark.parametrize("name", METHODS)
def test_keeps_the_contract_that_others_can_run(name):
    contract.check_method(name)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_packs_arrays_of_the_library_that_it_was_given(spec, vectors):
    for codec in codecs(spec):
        x = vectors((2, 3, 3 * codec.block_tokens, codec.head_dim), seed=1)
        packed = codec.encode(mx.array(x))
        assert nbytes(packed) * 8 == pytest.approx(codec.bits_per_value * x.size, abs=1e-6)
        assert all(isinstance(part, mx.array) for part in packed.values())
        assert codec.decode(packed).dtype == mx.float32
        assert restored(codec, packed).shape == x.shape


class Broken(base.method("q8_0")):
    """q8_0, but for one promise at a time."""

    def bits_per_value(self):
        return super().bits_per_value() + (self.broken == "bytes")

    def pack(self, xp, x):
        if self.broken == "mixing":
            x = x - x.mean(axis=1, keepdims=True)
        return super().pack(xp, x)

    def unpack(self, xp, packed):
        return super().unpack(xp, packed) * (20 if self.broken == "sizes" else 1)

    def query(self, q):
        return 2 * q if self.broken == "scores" else q

    def out_of_range(self, what):
        return NonFiniteError("no.") if self.broken == "refusals" else super().out_of_range(what)


@pytest.mark.parametrize(
    ("broken", "check", "said"),
    [
        ("bytes", contract.check_bytes, r"claims .* bits and stores"),
        ("mixing", contract.check_independence, "differently beside others"),
        ("refusals", contract.check_refusals, "without its name"),
        ("sizes", contract.check_sizes, "restores .* from at most"),
        ("scores", contract.check_scores, "scores that differ"),
    ],
)
def test_a_broken_promise_is_named(broken, check, said):
    codec = codec_for(QuantSpec(method="q8_0"), 64)
    check(codec)
    codec.quantizer = Broken(codec.spec, 64)
    codec.quantizer.broken = broken
    with pytest.raises(contract.ContractError, match=rf"q8_0 \(token axis\).*{said}"):
        check(codec)


@pytest.mark.parametrize("spec", DEFAULTS, ids=label)
def test_both_array_libraries_agree(spec, vectors):
    codec = codec_for(spec, 64)
    x = vectors((1, 2, 2 * codec.block_tokens, 64), seed=3)
    host, device = codec.pack(np, x), codec.pack(mx, mx.array(x))
    same = np.mean([np.mean(np.array(device[name]) == host[name]) for name in host])
    assert same > 0.999  # a sum in another order may move a value over an edge
    decoded = np.array(codec.unpack(mx, {name: mx.array(part) for name, part in host.items()}))
    np.testing.assert_allclose(decoded, codec.unpack(np, host), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_encoding_again_is_stable(spec, vectors):
    """What was decoded is encoded as itself."""
    for seed, codec in enumerate(codecs(spec, seed=5)):
        x = vectors((1, 2, 4 * codec.block_tokens, codec.head_dim), seed).astype(np.float16).astype(np.float32)
        packed = [codec.encode(x)]
        for _ in range(2):
            packed.append(codec.encode(restored(codec, packed[-1])))
        once, twice, thrice = (restored(codec, parts) for parts in packed)
        if spec.method in SKETCHES:
            assert np.linalg.norm(twice - once) <= 1.6 * np.linalg.norm(once - x)
        elif spec.method in SHRINKING:
            np.testing.assert_array_equal(packed[1]["codes"], packed[0]["codes"])
        elif spec.method in SETTLING:
            np.testing.assert_array_equal(thrice, twice)
            assert np.linalg.norm(twice - once) < 0.7 * np.linalg.norm(once - x)
        else:
            np.testing.assert_allclose(twice, once, rtol=1e-5, atol=1e-6 * np.abs(x).max())


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_error_is_bounded_for_its_bits(spec, vectors):
    codec = codec_for(spec, 128)
    x = vectors((1, 2, 4 * max(8, codec.block_tokens), 128), seed=2)
    if spec.method not in SKETCHES:
        assert relative_error(codec, x) < tolerance(codec)


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_constant_vectors(spec):
    codec = codecs(spec)[0]
    for constant in (0.0, 1.0, -0.37, 500.0):
        x = np.full((1, 1, codec.block_tokens, codec.head_dim), constant, np.float32)
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
    group = 32 if 32 in base.method(name).choices.group_sizes else None
    codec = codec_for(QuantSpec(method=name, group_size=group, rotation=rotation), 96)
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


@pytest.mark.parametrize("clip", [0.5, 0.8])
@pytest.mark.parametrize(("axis", "own"), [("channel", 2), ("token", 3)])
def test_clipping_cuts_the_groups_that_share_a_scale(axis, own, clip):
    x = np.random.default_rng(0).standard_normal((1, 1, 64, 64)).astype(np.float32)
    spec = QuantSpec(method="kivi", bits=8, axis=axis, scaling="learned")
    codec = Codec(spec, "key", 64, factors=Factors(np.ones(64), clip=clip))
    groups = np.stack(np.split(x, 2, axis=own))
    expected = np.clip(groups, clip * groups.min(own + 1, keepdims=True), clip * groups.max(own + 1, keepdims=True))
    found = np.stack(np.split(restored(codec, codec.encode(x)), 2, axis=own))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_factors_are_what_16_bit_hold():
    factors = Factors(np.random.default_rng(0).uniform(0.1, 9, (2, 64)))
    assert np.array_equal(factors.channel, factors.channel.astype(np.float16))
    with pytest.raises(SpecError, match="positive finite"):
        Factors(np.full(64, 1e-9))


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("none", ""),
        ("qjl", "keys"),
        ("polarquant", "a rotation; head size a multiple of 16"),
        ("kivi", "head size a multiple of the group; whole groups of tokens (16 bit until then)"),
    ],
)
def test_methods_say_what_they_need(name, needs):
    assert "; ".join(base.method(name).needs()) == needs


VECTORS = {
    "any": lambda rng, d, spread: rng.standard_normal(d) * np.exp(spread * rng.standard_normal(d)),
    "zeros": lambda rng, d, spread: np.zeros(d),
    "minus zeros": lambda rng, d, spread: -np.zeros(d),
    "constant": lambda rng, d, spread: np.full(d, rng.normal(scale=10**spread)),
    "tiny": lambda rng, d, spread: 1e-7 * rng.standard_normal(d),
    "below 16 bit": lambda rng, d, spread: 1e-30 * rng.standard_normal(d),
    "huge": lambda rng, d, spread: rng.choice([-2000.0, 2000.0], d),
    "one channel": lambda rng, d, spread: 1500.0 * (np.arange(d) == rng.integers(d)),
}


@settings(max_examples=100, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from(contract.HEAD_SIZES),
    spread=st.floats(0, 3),
    kinds=st.lists(st.sampled_from(sorted(VECTORS)), min_size=1, max_size=4),
)
def test_any_finite_input_gives_a_finite_output(spec, seed, batch, heads, head_dim, spread, kinds):
    """Vectors of all kinds side by side in one tensor; one kind is one token or one block of tokens."""
    try:
        codec = codec_for(spec, head_dim, seed)
    except SpecError:
        return
    rng = np.random.default_rng(seed)
    tokens = [VECTORS[kind](rng, head_dim, spread) for kind in kinds for _ in range(codec.block_tokens)]
    x = np.clip(np.array(tokens, np.float32), -2000, 2000) * np.ones((batch, heads, 1, 1), np.float32)
    packed = codec.encode(x)
    assert nbytes(packed) * 8 == pytest.approx(codec.bits_per_value * x.size, abs=1e-6)
    out = restored(codec, packed)
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 12 * np.abs(x).max() + 1e-6


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"quik.*affine"):
        base.method("quik")


LOUD = (20_000.0, 60_000.0)
"""Magnitudes that 16 bit hold, and that a rotation or a norm makes too large for some formats."""


@pytest.mark.parametrize("rotation", ["none", "hadamard", "random"])
@pytest.mark.parametrize("magnitude", LOUD)
@pytest.mark.parametrize("name", METHODS)
def test_a_magnitude_is_held_or_refused_by_name(name, magnitude, rotation):
    if rotation not in base.method(name).choices.rotations:
        pytest.skip(f"{name} takes no {rotation}")
    codec = codec_for(QuantSpec(method=name, rotation=rotation), 64)
    # One loud channel of one sign: a rotation spreads it over all; equal values: a rotation adds them up.
    shape = (1, 1, codec.block_tokens, 64)
    for x in (np.eye(64, dtype=np.float32)[3] * np.full(shape, magnitude, np.float32), np.full(shape, magnitude)):
        for loud in (x, mx.array(x), x.astype(np.float16)):
            try:
                packed = codec.encode(loud)
            except NonFiniteError as error:
                if name not in error.problem or not error.remedy:
                    raise
                continue
            distance = np.linalg.norm(restored(codec, packed) - x) / np.linalg.norm(x)
            assert distance < (3 if name in SKETCHES else 0.9)


def test_what_a_format_would_cut_off_is_refused():
    """NVFP4 holds 448 x 6 = 2,688, and MLX stores larger values as that."""
    codec = codec_for(QuantSpec(method="nvfp4"), 64)
    x = np.full((1, 1, 1, 64), 2_688.0, np.float32)
    assert np.abs(restored(codec, codec.encode(x)) - x).max() == 0
    with pytest.raises(NonFiniteError, match=r"magnitude of 2800.*2688"):
        codec.encode(x / 2_688 * 2_800)


@pytest.mark.parametrize("name", ["q4_1", "q5_1"])
def test_a_minimum_that_a_rotation_makes_overflow_is_refused(name):
    codec = codec_for(QuantSpec(method=name, rotation="hadamard"), 128)
    rotated = np.full((1, 1, 1, 128), 20_000.0, np.float32)
    aligned = np.array(codec.rotation.inverse(np.eye(128, dtype=np.float32)[None, None, :1] * -200_000.0))
    assert np.abs(aligned).max() < 20_000  # 16 bit hold it, and after the rotation one value is -200,000
    with pytest.raises(NonFiniteError, match=name):
        codec.encode(aligned)
    assert np.isfinite(restored(codec, codec.encode(rotated / 100))).all()
