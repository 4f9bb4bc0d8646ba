"""The encoding kernel writes the very bytes of the methods' own encoders, in the host emulation."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from emulated import Emulated
from emulation.host import Host

from swarm.kernels.cache import PackedKVCache
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
]
REST = [
    *((QuantSpec(method="affine", bits=b, group_size=g), d) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)
      for d in (128, 512)),
    *((QuantSpec(method="turboquant_mse", bits=b), d) for b in (1, 2, 3, 4, 5) for d in (64, 80, 96, 256, 512)),
    *((QuantSpec(method=name), d) for name in ("q4_0", "q4_1", "q8_0") for d in (64, 96, 128, 256, 512)),
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
    for name in ("iq4_nl", "kivi", "qjl", "none", "mxfp4"):
        assert FusedEncode(Host())(base.build(QuantSpec(method=name), 64).form(), x) is None


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
