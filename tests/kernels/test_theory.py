"""Methods against the formulas of their papers: distortion, bias, variance, and what rotations leave unchanged."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from swarm.kernels import codebooks
from swarm.kernels.codec import Codec
from swarm.kernels.rotation import Rotation, matrix
from swarm.kernels.spec import QuantSpec

HEAD_SIZES = (64, 80, 128, 256)


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def relative_error(codec, x):
    restored = codec.output(codec.decode(codec.encode(x)))
    return float(np.sum((restored - x) ** 2) / np.sum(x.astype(np.float64) ** 2))


# Max (1960), minimum mean squared error of n levels for N(0, 1): the limit of the sphere's law for large d.
NORMAL = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002505}


@pytest.mark.parametrize("bits", sorted(NORMAL))
def test_codebook_distortion_approaches_the_normal_law(bits):
    large = codebooks.sphere(1 << 14, bits)
    assert large.distortion * (1 << 14) == pytest.approx(NORMAL[bits], rel=2e-3)
    small = codebooks.sphere(64, bits).distortion * 64
    assert 0.9 * NORMAL[bits] < small < NORMAL[bits]


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codebooks_are_optimal(head_dim, bits):
    book = codebooks.sphere(head_dim, bits)
    np.testing.assert_allclose(book.values, -book.values[::-1], atol=1e-7)
    rng = np.random.default_rng(bits)
    t = unit(rng, 20_000, head_dim)[:, :8].ravel()
    cells = np.searchsorted(book.edges, t)
    for code, value in enumerate(book.values):
        inside = t[cells == code]
        assert inside.mean() == pytest.approx(value, abs=5 * inside.std() / np.sqrt(len(inside)) + 1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_turboquant_mse_has_the_distortion_of_its_codebook(bits, head_dim, seed):
    rng = np.random.default_rng(seed)
    codec = Codec(QuantSpec(method="turboquant_mse", bits=bits, rotation="random"), "key", head_dim, seed)
    x = unit(rng, 1, 1, 4000, head_dim) * rng.uniform(0.1, 30, (1, 1, 4000, 1)).astype(np.float32)
    per_vector = [relative_error(codec, x[:, :, i : i + 500]) for i in range(0, 4000, 500)]
    expected = codebooks.sphere(head_dim, bits).distortion * head_dim
    spread = np.std(per_vector) / np.sqrt(len(per_vector))
    assert np.mean(per_vector) == pytest.approx(expected, abs=5 * spread + 1e-3 * expected + 1e-6)
    # The paper's bound for every input.
    assert np.mean(per_vector) <= np.sqrt(3) * np.pi / 2 * 4.0**-bits


def inner_products(method, bits, head_dim, sketches, rotation):
    """Estimates of <q, k> for one pair over many seeds, the exact value, and the norms."""
    rng = np.random.default_rng(head_dim)
    q, k = (3 * rng.standard_normal((1, 1, 1, head_dim)).astype(np.float32) for _ in range(2))
    k += 0.5 * q
    estimates = []
    for seed in range(sketches):
        codec = Codec(QuantSpec(method=method, bits=bits, rotation=rotation), "key", head_dim, seed)
        packed = codec.encode(k)
        estimates.append((codec.query(q) * codec.decode(packed)).sum())
    return np.array(estimates, np.float64), float((q * k).sum()), float(np.linalg.norm(q)), float(np.linalg.norm(k))


@pytest.mark.parametrize(("head_dim", "bits"), [(64, 1), (64, 3), (80, 2), (128, 3), (256, 1)])
def test_qjl_is_unbiased_with_its_exact_variance(head_dim, bits):
    count = 400
    estimates, exact, q, k = inner_products("qjl", bits, head_dim, count, "none")
    variance = (np.pi / 2 * q**2 * k**2 - exact**2) / (bits * head_dim)
    assert estimates.mean() == pytest.approx(exact, abs=4.5 * np.sqrt(variance / count) + 1e-3 * abs(exact))
    assert estimates.var() == pytest.approx(variance, rel=0.3)


@pytest.mark.parametrize(("head_dim", "bits"), [(64, 2), (64, 4), (80, 3), (128, 2), (256, 4)])
def test_turboquant_prod_is_unbiased_with_its_exact_variance(head_dim, bits):
    """Given the rotation, the residual r is fixed and its sketch is QJL with m = d: variance as QJL's with r for k."""
    rng = np.random.default_rng(bits)
    q, k = (2 * rng.standard_normal((1, 1, 1, head_dim)).astype(np.float32) for _ in range(2))
    errors, scaled = [], []
    for seed in range(250):
        codec = Codec(QuantSpec(method="turboquant_prod", bits=bits), "key", head_dim, seed)
        packed = codec.encode(k)
        decoded, framed = codec.decode(packed), codec.query(q)
        estimate = float((framed * decoded).sum())
        rest = codec.rotation.forward(k) - decoded[..., :head_dim]
        turned = codec.rotation.forward(q)
        variance = (np.pi / 2 * np.sum(turned**2) * np.sum(rest**2) - float((turned * rest).sum()) ** 2) / head_dim
        errors.append(estimate - float((q * k).sum()))
        scaled.append(errors[-1] / np.sqrt(variance))
    assert np.mean(scaled) == pytest.approx(0, abs=4.5 / np.sqrt(len(scaled)))
    assert np.var(scaled) == pytest.approx(1, abs=0.3)


def test_turboquant_mse_shrinks_inner_products_and_prod_does_not():
    rng = np.random.default_rng(0)
    k = unit(rng, 1, 1, 4000, 128)
    slopes = {}
    for method in ("turboquant_mse", "turboquant_prod"):
        codec = Codec(QuantSpec(method=method, bits=2), "key", 128, 1)
        estimates = (codec.query(k) * codec.decode(codec.encode(k))).sum(axis=-1)
        slopes[method] = estimates.mean()
    distortion = codebooks.sphere(128, 2).distortion * 128
    assert slopes["turboquant_mse"] == pytest.approx(1 - distortion, abs=0.01)
    assert slopes["turboquant_prod"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("level", [2, 3, 4])
def test_angles_follow_the_law_of_their_level(level):
    """The codebook's cells hold as many angles of Gaussian vectors as the density of the level says."""
    rng = np.random.default_rng(level)
    halves = rng.standard_normal((200_000, 2, 2 ** (level - 1)))
    radii = np.linalg.norm(halves, axis=-1)
    angles = np.arctan2(radii[:, 1], radii[:, 0])
    book = codebooks.angle(level, 2)
    error = np.mean((angles - book.values[np.searchsorted(book.edges, angles)]) ** 2)
    assert error == pytest.approx(book.distortion, rel=0.02)
    even = np.linspace(0, np.pi / 2, 9)[1::2]
    uniform = np.mean((angles - even[np.abs(angles[:, None] - even).argmin(axis=1)]) ** 2)
    assert book.distortion < uniform
    if level > 2:
        assert book.distortion < 0.7 * uniform


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("head_dim", HEAD_SIZES)
def test_polarquant_error_is_that_of_its_angles(head_dim, seed):
    """Errors of independent angles add up: each level turns the vectors below it by its own angle error."""
    codec = Codec(QuantSpec(method="polarquant", rotation="random"), "key", head_dim, seed)
    x = unit(np.random.default_rng(seed), 1, 1, 3000, head_dim)
    first = (2 * np.pi / 16) ** 2 / 12
    expected = first + sum(codebooks.angle(level, 2).distortion for level in (2, 3, 4))
    assert relative_error(codec, x) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("kind", ["hadamard", "random"])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("head_dim", [8, 40, *HEAD_SIZES, 96])
def test_rotations_keep_scores_and_norms(kind, seed, head_dim):
    rotation = Rotation(kind, head_dim, seed)
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((2, 1, 2, 9, head_dim)).astype(np.float32)
    turned = rotation.forward(q) @ rotation.forward(k).swapaxes(-1, -2)
    np.testing.assert_allclose(turned, q @ k.swapaxes(-1, -2), atol=2e-5 * head_dim)
    np.testing.assert_allclose(rotation.inverse(rotation.forward(k)), k, atol=1e-5)
    full = matrix(kind, head_dim, seed)
    np.testing.assert_allclose(full @ full.T, np.eye(head_dim), atol=1e-12)
    block = head_dim & -head_dim if kind == "hadamard" else head_dim
    off = np.kron(np.eye(head_dim // block), np.ones((block, block))) == 0
    assert np.all(full[off] == 0)
    if kind == "hadamard":
        np.testing.assert_allclose(np.abs(full[~off]), block**-0.5, atol=1e-12)
    assert not np.array_equal(full, matrix(kind, head_dim, seed + 1))


@pytest.mark.parametrize("kind", ["hadamard", "random"])
@pytest.mark.parametrize("head_dim", [8, 40, *HEAD_SIZES, 512])
def test_mlx_and_numpy_turn_alike_whatever_the_shape(kind, head_dim):
    rotation = Rotation(kind, head_dim, 5)
    exact = matrix(kind, head_dim, 5)
    for shape in ((1, 2, 7, head_dim), (3, head_dim), (2, 1, 0, head_dim)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        for turn, by in ((rotation.forward, exact), (rotation.inverse, exact.T)):
            found = turn(mx.array(x))
            assert found.dtype == mx.float32
            np.testing.assert_allclose(np.array(found), x @ by, atol=2e-5)
            np.testing.assert_allclose(turn(x), x @ by, atol=2e-5)


def test_rotating_helps_where_channels_stick_out():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 2, 256, 128)).astype(np.float32)
    x[..., 17] *= 25
    q = rng.standard_normal((1, 2, 64, 128)).astype(np.float32)
    worst = {}
    for kind in ("none", "hadamard"):
        codec = Codec(QuantSpec(method="q4_0", rotation=kind), "key", 128)
        error = codec.query(q) @ codec.decode(codec.encode(x)).swapaxes(-1, -2) - q @ x.swapaxes(-1, -2)
        worst[kind] = np.sqrt((error**2).mean())
    assert worst["hadamard"] < 0.8 * worst["none"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_per_channel_keys_win_where_channels_stick_out(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 2, 128, 64)).astype(np.float32)
    x[..., [3, 40]] = 20 + 3 * rng.standard_normal((1, 2, 128, 2))
    per_channel, per_token = (
        relative_error(Codec(QuantSpec(method="kivi", bits=2, axis=axis), "key", 64), x)
        for axis in ("channel", "token")
    )
    assert per_channel < per_token / 4


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("name", ["affine", "kivi", "turboquant_mse", "turboquant_prod", "polarquant", "qjl"])
def test_more_bits_less_error(name, head_dim, seed):
    from swarm.kernels.quantizers import base

    x = np.random.default_rng(seed).standard_normal((1, 2, 128, head_dim)).astype(np.float32)
    errors = [
        relative_error(Codec(QuantSpec(method=name, bits=bits), "key", head_dim, seed), x)
        for bits in sorted(base.method(name).choices.bits)
    ]
    # Each bit takes at least a quarter off; of QJL's, which average signs, 1/n.
    assert all(more < (0.87 if name == "qjl" else 0.75) * less for less, more in pairwise(errors))
