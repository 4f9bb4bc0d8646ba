"""Packed bytes are what the projects that define the formats make of the same values."""

import gguf
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.kernels import bits, plugins
from swarm.kernels.quantizers import base
from swarm.kernels.quantizers.iq4_nl import TABLE
from swarm.kernels.spec import QuantSpec

GGML = [name for name in plugins.names(base.PACKAGE) if name[0] == "q" and name[1].isdigit()]
MODES = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}


def hard_values(seed, shape, exponent):
    """Values over many magnitudes, with ties, zeros, constants, minus zero and equal extremes of both signs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 10.0 ** rng.uniform(-exponent, exponent, (*shape[:-1], 1))
    x = np.clip(x, -60000, 60000).astype(np.float32)
    flat = x.reshape(-1, shape[-1])
    flat[0] = 0
    flat[1] = 0.75
    flat[2] = np.tile([0.25, -0.75, 1.25, -1.75, 2.5, -3.5, 5, -6], shape[-1] // 8)
    flat[3] = np.tile([4, -4, 2, -2, 1, -1, 0.5, -0.0], shape[-1] // 8)
    flat[4] = np.round(flat[4] / np.abs(flat[4]).max() * 127) / 2
    flat[5] = np.copysign(0, flat[5])
    return x


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20), exponent=st.sampled_from([0.0, 1.0, 3.0]), head_dim=st.sampled_from([32, 64, 96, 256])
)
@pytest.mark.parametrize("name", GGML)
def test_ggml_blocks_are_those_of_gguf(name, seed, exponent, head_dim):
    x = hard_values(seed, (1, 2, 6, head_dim), exponent)
    kind = gguf.GGMLQuantizationType[name.upper()]
    expected = gguf.quantize(x, kind)
    quantizer = base.build(QuantSpec(method=name), head_dim)
    packed = quantizer.encode(x)
    np.testing.assert_array_equal(packed["blocks"], expected)
    np.testing.assert_array_equal(quantizer.decode(packed), gguf.dequantize(expected, kind))


def iq4_nl_reference(block):
    """One block by the scalar loop of ggml's reference encoder, in float32."""
    f = np.float32
    extreme = block[np.abs(block).argmax()]
    if abs(extreme) < 1e-15:
        return f(0), np.zeros(32, int)
    inverse = f(1) / (extreme / f(TABLE[0]))
    codes, top, bottom = [], f(0), f(0)
    for value in block:
        scaled = inverse * value
        code = min(range(16), key=lambda i: (abs(f(TABLE[i]) - scaled), -i))
        codes.append(code)
        top += f(value * value) * f(TABLE[code]) * value
        bottom += f(value * value) * f(TABLE[code]) * f(TABLE[code])
    return top / bottom, np.array(codes)


@pytest.mark.parametrize("seed", range(4))
def test_iq4_nl_is_ggmls_reference_encoder(seed):
    x = hard_values(seed, (1, 1, 24, 32), 1.0)
    quantizer = base.build(QuantSpec(method="iq4_nl"), 32)
    blocks = quantizer.encode(x)["blocks"].reshape(-1, 18)
    for row, block in zip(x.reshape(-1, 32), blocks, strict=True):
        scale, codes = iq4_nl_reference(row)
        np.testing.assert_allclose(block[:2].copy().view(np.float16)[0], np.float16(scale), rtol=1e-3)
        np.testing.assert_array_equal(np.concatenate([block[2:] & 15, block[2:] >> 4]), codes)
    decoded = gguf.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType.IQ4_NL).reshape(x.shape)
    np.testing.assert_array_equal(quantizer.decode({"blocks": blocks.reshape(1, 1, 24, 18)}), decoded)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), exponent=st.sampled_from([0.0, 2.0]), width=st.sampled_from([2, 3, 4, 5, 6, 8]))
@pytest.mark.parametrize("group", [32, 64, 128])
def test_affine_is_mx_quantize(group, seed, exponent, width):
    x = hard_values(seed, (2, 1, 5, 128), exponent).astype(np.float16)
    quantizer = base.build(QuantSpec(method="affine", bits=width, group_size=group), 128)
    expected = mx.quantize(mx.array(x), group_size=group, bits=width)
    packed = quantizer.encode(mx.array(x))
    for name, part in zip(("codes", "scales", "biases"), expected, strict=True):
        assert packed[name].dtype == part.dtype
        np.testing.assert_array_equal(np.array(packed[name]), np.array(part))
    wide = [part.astype(mx.float32) for part in expected[1:]]
    plain = mx.dequantize(expected[0], *wide, group_size=group, bits=width)
    np.testing.assert_allclose(np.array(quantizer.decode(packed)), np.array(plain), rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), exponent=st.sampled_from([0.0, 1.0, 3.0]))
@pytest.mark.parametrize("name", MODES)
def test_small_floats_are_those_of_mx_quantize(name, seed, exponent):
    group, width = MODES[name]
    quantizer = base.build(QuantSpec(method=name), 96)
    most = np.float32(min(quantizer.largest, 65504))  # beyond it a method refuses
    x = np.clip(hard_values(seed, (1, 2, 6, 96), exponent), -most, most)
    codes, scales = mx.quantize(mx.array(x), group_size=group, bits=width, mode=name)[:2]
    packed = quantizer.encode(mx.array(x))
    np.testing.assert_array_equal(np.array(packed["scales"]), np.array(scales))
    np.testing.assert_array_equal(np.array(packed["codes"]), np.array(codes))
    plain = mx.dequantize(codes, scales, group_size=group, bits=width, mode=name, dtype=mx.float32)
    np.testing.assert_array_equal(np.array(quantizer.decode(packed)), np.array(plain))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), width=st.integers(1, 8), count=st.integers(1, 9), rows=st.integers(1, 4))
def test_codes_are_one_little_endian_stream(seed, width, count, rows):
    codes = np.random.default_rng(seed).integers(0, 2**width, (rows, 8 * count)).astype(np.uint8)
    stream = (codes[..., None] >> np.arange(width, dtype=np.uint8)) & 1
    expected = np.packbits(stream.reshape(rows, -1), axis=-1, bitorder="little")
    table = np.random.default_rng(1).standard_normal(2**width).astype(np.float32)
    for xp, given_codes in ((np, codes), (mx, mx.array(codes))):
        packed = bits.pack(xp, given_codes, width)
        np.testing.assert_array_equal(np.array(packed), expected)
        np.testing.assert_array_equal(np.array(bits.unpack(xp, packed, width)), codes)
        np.testing.assert_array_equal(np.array(bits.lookup(xp, packed, width, table)), table[codes])


def test_kivi_is_its_formula():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 64, 32)).astype(np.float32)
    keys = base.build(QuantSpec(method="kivi", bits=2, axis="channel"), 32)
    packed = keys.encode(x)
    group = x[0, 1, 32:64, 5]
    scale = np.float16((group.max() - group.min()) / 3)
    low = np.float16(group.min())
    assert packed["scales"][0, 1, 1, 5] == scale
    assert packed["lows"][0, 1, 1, 5] == low
    codes = np.clip(np.round((group - np.float32(low)) / np.float32(scale)), 0, 3)
    np.testing.assert_allclose(
        keys.decode(packed)[0, 1, 32:64, 5], codes * np.float32(scale) + np.float32(low), atol=1e-6
    )
