"""Attention trials time the fused kernel beside its baselines, where there is one; here in the host emulation."""

from __future__ import annotations

import pytest
from conftest import model_info
from emulated import Emulated

from swarm.experiments.measurement import kernel_time
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.fused.timing import Effort, Roof
from swarm.kernels.spec import KVSpec, QuantSpec

LITTLE = Effort(1, 1, 1, 1)
ROOF = Roof(copy=100.0, flops=10.0)
A4 = QuantSpec(method="affine", bits=4, group_size=64)
TURBO = QuantSpec(method="turboquant_mse")


def timed(key, value, backend=None, windows=(None,) * 2, layers=(0, 1)):
    spec = TrialSpec(model="m", protocol="attention", kv=KVSpec(key=key, value=value, sink_tokens=4), context=64)
    info = model_info(n_layers=len(windows), n_heads=4, n_kv_heads=2, head_dim=64, windows=windows)
    found = kernel_time.metrics(spec, info, layers, backend=backend or Emulated(), roof=ROOF, effort=LITTLE)
    return {metric.name: metric for metric in found}


def test_the_kernel_is_timed_beside_every_baseline_that_applies():
    found = timed(A4, A4)
    names = {"decode_us", "decode_us_sdpa16", "decode_us_dequantize", "decode_us_quantized_matmul"}
    assert set(found) == names | {
        "decode_bytes", "decode_bandwidth", "decode_share_of_copy", "decode_share_of_roofline"
    }  # fmt: skip
    assert found["decode_bytes"].value == 2 * 2 * 64 * 64 * 4.5 / 8
    rate = found["decode_bytes"].value / found["decode_us"].value / 1e3
    assert found["decode_bandwidth"].value == pytest.approx(rate)
    assert found["decode_share_of_copy"].value == pytest.approx(rate / 100)
    assert found["decode_share_of_roofline"].value >= 0.999 * found["decode_share_of_copy"].value
    assert {name for name, metric in found.items() if not metric.timed} == {"decode_bytes"}


def test_rotated_and_windowed_layers_count_by_their_share():
    found = timed(TURBO, A4, windows=(16, None, None, None), layers=(0, 1, 2, 3))
    assert "decode_us_quantized_matmul" not in found
    assert "decode_us_dequantize" in found
    bits = (4 + 16 / 64) + 4.5
    assert found["decode_bytes"].value == pytest.approx(2 * 64 * bits / 8 * (16 + 3 * 64) / 4)


@pytest.mark.parametrize("key", [QuantSpec(method="kivi"), QuantSpec(method="qjl")])
def test_where_no_kernel_reads_the_format_nothing_is_reported(key):
    assert timed(key, A4) == {}


def test_a_back_end_without_fused_kernels_reports_nothing():
    assert timed(A4, A4, Cpu()) == {}


def test_the_roofline_is_the_nearer_of_both_limits():
    assert ROOF.least_microseconds(1_000_000, 1) == pytest.approx(10.0)
    assert ROOF.least_microseconds(1, 1_000_000_000) == pytest.approx(100.0)
    measured = Roof.measured(copied=2**20, order=128, repeats=1)
    assert measured.copy > 0
    assert measured.flops > 0


@pytest.mark.parametrize(("unit", "expected"), [("us", True), ("of roofline", True), ("nat", False), ("B", False)])
def test_units_tell_what_comes_from_a_clock(unit, expected):
    assert Metric.of("x", 1.0, unit).timed is expected
