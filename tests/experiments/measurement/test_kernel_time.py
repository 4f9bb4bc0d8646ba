"""Attention trials time the fused kernel beside its baselines, where there is one; here in the host emulation."""

from __future__ import annotations

import pytest
from conftest import model_info
from emulated import Emulated

from swarm.experiments.artifacts import CaptureStore
from swarm.experiments.measurement import kernel_time
from swarm.experiments.spec import KernelTiming, Metric, TrialSpec
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.errors import SwarmError
from swarm.kernels.fused.timing import Effort, Roof
from swarm.kernels.spec import KVSpec, QuantSpec

LITTLE = Effort(1, 1, 1, 1)
ROOF = Roof(copy=100.0, flops=10.0)
A4 = QuantSpec(method="affine", bits=4, group_size=64)
TURBO = QuantSpec(method="turboquant_mse")
CONTEXTS = (64, 128)


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    return CaptureStore(tmp_path_factory.mktemp("captures"))


def timed(captures, key, value, backend=None, windows=(None,) * 2, layers=(0, 1), shape="", effort=LITTLE):
    spec = TrialSpec(model="m", protocol="attention", kv=KVSpec(key=key, value=value, sink_tokens=4), context=512)
    info = model_info(n_layers=len(windows), n_heads=4, n_kv_heads=2, head_dim=64, windows=windows)
    timing = KernelTiming(contexts=CONTEXTS, shape=shape)
    return kernel_time.measure(
        spec, info, layers, timing, captures, backend=backend or Emulated(), roof=ROOF, effort=effort
    )


def by_name(found):
    return {metric.name: metric for metric in found.metrics}


def test_the_kernel_is_timed_beside_16_bit_at_the_contexts_asked_for_whatever_the_trials(captures):
    found = by_name(timed(captures, A4, A4))
    names = ("decode_us", "decode_us_sdpa16", "decode_bytes", "decode_share_of_copy", "decode_share_of_roofline")
    assert set(found) == {f"{name}_at_{context}" for name in names for context in CONTEXTS}
    for context in CONTEXTS:
        assert found[f"decode_bytes_at_{context}"].value == 2 * 2 * context * 64 * 4.5 / 8
        rate = found[f"decode_bytes_at_{context}"].value / found[kernel_time.metric_name(context)].value / 1e3
        share = found[f"decode_share_of_copy_at_{context}"].value
        assert share == pytest.approx(rate / 100)
        assert found[f"decode_share_of_roofline_at_{context}"].value >= 0.999 * share
    assert {name for name, metric in found.items() if not metric.timed} == {f"decode_bytes_at_{c}" for c in CONTEXTS}


def test_rotated_and_windowed_layers_count_by_their_share(captures):
    found = by_name(timed(captures, TURBO, A4, windows=(16, None, None, None), layers=(0, 1, 2, 3)))
    bits = (4 + 16 / 64) + 4.5
    for context in CONTEXTS:
        assert found[f"decode_bytes_at_{context}"].value == pytest.approx(2 * 64 * bits / 8 * (16 + 3 * context) / 4)


def test_16_bit_is_timed_once_per_shape_and_device(captures):
    effort = Effort(1, 1, 1, 2)  # not that of other tests
    first, second = (by_name(timed(captures, key, A4, effort=effort)) for key in (A4, TURBO))
    for context in CONTEXTS:
        name = f"decode_us_sdpa16_at_{context}"
        assert first[name].value == second[name].value
    another = by_name(timed(captures, A4, A4, effort=Effort(1, 1, 1, 3)))
    assert another[name].value != first[name].value


def test_a_kernel_is_timed_once_per_shape_formats_and_device(captures):
    effort = Effort(1, 1, 1, 4)  # not that of other tests
    first, again = (by_name(timed(captures, A4, A4, layers=some, effort=effort)) for some in ((0, 1), (1,)))
    other = by_name(timed(captures, A4, TURBO, effort=effort))
    for context in CONTEXTS:
        name = kernel_time.metric_name(context)
        assert first[name].value == again[name].value != other[name].value


def test_layers_of_another_model_are_timed_by_its_shape(captures):
    found = by_name(timed(captures, A4, A4, shape="smollm2 135m"))
    name = "decode_bytes_at_128"
    assert found[f"{name}_of_smollm2 135m"].value == found[name].value * 3 / 2  # KV heads
    with pytest.raises(SwarmError, match="no-such-model"):
        timed(captures, A4, A4, shape="no-such-model")


def test_a_context_that_does_not_fit_is_left_out_and_said(captures, monkeypatch):
    room = 4 * 2 * 2 * 2 * CONTEXTS[0] * 64
    monkeypatch.setattr("mlx.core.device_info", lambda: {"device_name": "small", "free_memory": room})
    found = timed(captures, A4, A4)
    assert kernel_time.metric_name(CONTEXTS[0]) in by_name(found)
    assert kernel_time.metric_name(CONTEXTS[1]) not in by_name(found)
    assert str(CONTEXTS[1]) in found.note
    assert str(CONTEXTS[0]) not in found.note


def test_where_no_kernel_reads_the_format_nothing_is_reported(captures):
    found = timed(captures, QuantSpec(method="qjl"), A4)
    assert (found.metrics, found.note) == ([], "")


def test_a_back_end_without_fused_kernels_reports_nothing(captures):
    assert timed(captures, A4, A4, Cpu()).metrics == []


def test_the_roofline_is_the_nearer_of_both_limits():
    assert ROOF.least_microseconds(1_000_000, 1) == pytest.approx(10.0)
    assert ROOF.least_microseconds(1, 1_000_000_000) == pytest.approx(100.0)
    measured = Roof.measured(copied=2**20, order=128, repeats=1)
    assert measured.copy > 0
    assert measured.flops > 0


@pytest.mark.parametrize(("unit", "expected"), [("us", True), ("of roofline", True), ("nat", False), ("B", False)])
def test_units_tell_what_comes_from_a_clock(unit, expected):
    assert Metric.of("x", 1.0, unit).timed is expected
