"""The encoding kernel writes the very bytes of the methods' own encoders, in the host emulation."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from emulated import Emulated
from emulation.host import Host

from swarm.kernels.cache import PackedKVCache
from swarm.kernels.fused import recent
from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, QuantSpec

A4 = QuantSpec(method="affine", bits=4, group_size=64)
CASES = [
    (A4, 128),
    (QuantSpec(method="affine", bits=2, group_size=32), 64),
    (QuantSpec(method="affine", bits=8, group_size=128), 256),
    (QuantSpec(method="q8_0"), 64),
    (QuantSpec(method="q4_0"), 96),
    (QuantSpec(method="q4_1"), 64),
    (QuantSpec(method="turboquant_mse", bits=4), 80),
    *((QuantSpec(method=name), 96) for name in ("q5_0", "q5_1", "mxfp4", "mxfp8", "nvfp4")),
]
REST = [
    *((QuantSpec(method="affine", bits=b, group_size=g), d) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)
      for d in (128, 512)),
    *((QuantSpec(method="turboquant_mse", bits=b), d) for b in (1, 2, 3, 4, 5) for d in (64, 80, 96, 256, 512)),
    *((QuantSpec(method=name), d) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4", "mxfp8", "nvfp4")
      for d in (64, 96, 128, 256, 512)),
]  # fmt: skip


def vectors(rng, dim, dtype):
    """Vectors [2, 3, 9, D] of many magnitudes; some are zero, constant, or have two values of largest magnitude."""
    x = rng.standard_normal((2, 3, 9, dim)) * np.exp(3 * rng.standard_normal((2, 3, 9, 1)))
    x[0, 0, 0] = 0
    x[0, 0, 1] = 1.5
    x[0, 0, 2] = np.tile([-1.5, 1.5], dim // 2)
    x[0, 0, 3, 1:] = 0
    x[0, 0, 4] *= 1e-6
    return mx.array(x.astype(np.float32)).astype(dtype)


def check(spec, dim, seed, layout, dtype=mx.float16):
    quantizer = base.build(spec, dim)
    x = vectors(np.random.default_rng(seed), dim, dtype)
    got = FusedEncode(Host(layout, seed))(quantizer.form(), x)
    expected = quantizer.pack(np, np.array(x.astype(mx.float32) if dtype == mx.bfloat16 else x))
    if dtype == mx.bfloat16 and spec.method == "affine":
        expected = dict(zip(expected, mx.quantize(x, group_size=spec.group_size, bits=spec.bits), strict=True))
    assert list(got) == list(expected)
    for name, part in got.items():
        bits = [mx.array(a).view(mx.uint8) for a in (part, expected[name])]
        assert part.shape == expected[name].shape
        assert mx.array_equal(*bits), (spec.label, dim, name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].label}-d{case[1]}")
def test_codes_are_those_of_the_reference_encoder(case):
    for seed in range(3):
        check(*case, seed, "metal" if case[1] == 64 else "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cuda", "metal"])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32], ids=str)
@pytest.mark.parametrize("case", [*CASES, *REST], ids=lambda case: f"{case[0].label}-d{case[1]}")
def test_codes_of_every_template_combination(case, dtype, layout):
    check(*case, 7, layout, dtype)


def test_what_no_kernel_writes_is_left_to_its_method():
    x = mx.zeros((1, 1, 1, 64))
    for name in ("iq4_nl", "kivi", "qjl", "none", "polarquant"):
        assert FusedEncode(Host())(base.build(QuantSpec(method=name), 64).form(), x) is None


class SlowToCompile(Emulated):
    least_packed = 4_000


@pytest.mark.parametrize("spec", [A4, QuantSpec(method="q4_0"), QuantSpec(method="turboquant_mse", bits=4)])
def test_a_short_prompt_waits_for_no_kernel_where_compiling_one_takes_long(spec):
    quantizer, backend, usual = base.build(spec, 64), SlowToCompile(), Emulated()
    prompt = vectors(np.random.default_rng(1), 64, mx.float16)
    for x, kernels in ((prompt, 0), (prompt[:, :, :1], 0), (mx.concatenate([prompt, prompt], axis=2), 1)):
        found, expected = backend.pack(quantizer, x), usual.pack(quantizer, x)
        assert backend.packed == kernels  # for the long prompt
        for name, part in expected.items():
            assert mx.array_equal(found[name].view(mx.uint8), part.view(mx.uint8)), name


class Plain(Emulated):
    def pack(self, quantizer, x):
        return quantizer.pack(mx, x)


@pytest.mark.parametrize("segments", [{}, {"sink_tokens": 3, "residual_window": 5}])
@pytest.mark.parametrize("window", [None, 24])
def test_the_cache_appends_what_the_kernel_packs(segments, window):
    """Over the growth of the store, in calls of any length, codes lie where the method's own encoder puts them."""
    kv = KVSpec(key=A4, value=QuantSpec(method="q8_0"), **segments)
    rng = np.random.default_rng(4)
    caches = [PackedKVCache(kv, window=window, backend=backend) for backend in (Emulated(), Plain())]
    for length in (1, 250, 7, 1, 1, 3):
        k, v = (mx.array(rng.standard_normal((1, 2, length, 64)).astype(np.float16)) for _ in range(2))
        for cache in caches:
            cache.append(k, v)
    fused, plain = (cache.state for cache in caches)
    assert caches[0].backend.packed >= 8
    for side in ("key", "value"):
        for name, part in plain[side]["arrays"].items():
            assert mx.array_equal(fused[side]["arrays"][name], part), (side, name)


TOKEN_BY_TOKEN = {
    "affine": KVSpec(key=A4, value=QuantSpec(method="affine", bits=3, group_size=32)),
    "blocks": KVSpec(key=QuantSpec(method="q8_0"), value=QuantSpec(method="q4_1"), sink_tokens=2),
    "norms": KVSpec(key=QuantSpec(method="turboquant_mse", bits=3), value=QuantSpec(method="q4_0")),
    "floats": KVSpec(key=QuantSpec(method="nvfp4"), value=QuantSpec(method="mxfp8")),
    "fifths": KVSpec(key=QuantSpec(method="q5_1"), value=QuantSpec(method="q5_0")),
    "rotated": KVSpec(key=QuantSpec(method="affine", rotation="hadamard"), value=A4),
    "tail": KVSpec(key=A4, value=QuantSpec(method="q8_0"), sink_tokens=2, residual_window=5),
    "one in 16 bit": KVSpec(key=QuantSpec(method="turboquant_mse"), value=A4, residual_window=1),
}


@pytest.mark.parametrize(
    ("name", "window", "dtype"),
    [
        ("affine", None, mx.bfloat16),
        ("blocks", 24, mx.float16),
        ("norms", 24, mx.bfloat16),
        ("rotated", None, mx.float16),
        ("floats", None, mx.bfloat16),
        ("fifths", 24, mx.float16),
        ("tail", None, mx.bfloat16),
        ("tail", 24, mx.float16),
        ("one in 16 bit", None, mx.float16),
    ],
)
def test_tokens_that_come_one_by_one_are_stored_as_in_one_call(monkeypatch, name, window, dtype):
    """Past the room for recent tokens, with the last ones taken back and read in again."""
    monkeypatch.setattr(recent, "ROOM", 16)
    rng = np.random.default_rng(len(name))
    keys, values = (mx.array(rng.standard_normal((2, 2, 50, 64)).astype(np.float32)).astype(dtype) for _ in range(2))

    def append(cache, first, stop):
        cache.append(keys[:, :, first:stop], values[:, :, first:stop])

    one, plain = (PackedKVCache(TOKEN_BY_TOKEN[name], window=window, backend=kind()) for kind in (Emulated, Plain))
    append(one, 0, 9)
    for i in range(9, 50):
        append(one, i, i + 1)
        if i == 30 and one.is_trimmable():
            one.trim(3)
            for j in range(28, 31):
                append(one, j, j + 1)
    for first, stop in ((0, 9), (9, 36), (36, 49), (49, 50)):
        append(plain, first, stop)
    assert one.backend.joined >= 39
    assert one.nbytes > plain.nbytes
    assert one.bits_per_value() == pytest.approx(plain.bits_per_value())
    for side in ("key", "value"):
        stored, expected = one.state[side], plain.state[side]
        assert {**stored, "arrays": 0} == {**expected, "arrays": 0}
        for part, array in expected["arrays"].items():
            assert mx.array_equal(stored["arrays"][part].view(mx.uint8), array.view(mx.uint8)), (side, part)


def test_a_state_that_was_kept_is_not_touched_by_later_tokens():
    cache = PackedKVCache(TOKEN_BY_TOKEN["affine"], backend=Emulated("cuda"))
    x = mx.random.normal((1, 2, 40, 64)).astype(mx.float16)
    cache.append(x[:, :, :20], x[:, :, :20])
    cache.keep_state_at(30)
    for i in range(20, 40):
        cache.append(x[:, :, i : i + 1], x[:, :, i : i + 1])
    older = cache.kept_state()
    for branch in (older, cache):
        branch.append(x[:, :, :1], x[:, :, :1])
    fresh = PackedKVCache(TOKEN_BY_TOKEN["affine"], backend=Plain())
    fresh.append(x[:, :, :30], x[:, :, :30])
    fresh.append(x[:, :, :1], x[:, :, :1])
    for part, array in fresh.state["key"]["arrays"].items():
        assert mx.array_equal(older.state["key"]["arrays"][part], array)
