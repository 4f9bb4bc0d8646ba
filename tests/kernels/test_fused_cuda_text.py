"""The kernel text compiles for NVIDIA GPUs, as MLX would hand it over, and stays in the registers that plans assume."""

from __future__ import annotations

import re

import mlx.core as mx
import pytest
from emulation import nvidia
from fused_cases import FORMATS, Case, error_of

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import plan, sources
from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.fused.recent import FusedAppend
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

REGISTERS = 65_536  # of a multiprocessor
A4, A4G32 = FORMATS["affine4g64"], QuantSpec(method="affine", bits=4, group_size=32)
TYPES = (mx.float16, mx.bfloat16, mx.float32)
toolkit = pytest.mark.skipif(nvidia.missing() is not None, reason=f"nothing to compile with: {nvidia.missing()}")


class Recorder:
    """Runs nothing, and keeps what it was asked to run."""

    def __init__(self):
        self.calls = []

    def run(self, kernel, arrays):
        self.calls.append(kernel)
        return [mx.zeros(shape, dtype=dtype) for _, shape, dtype in kernel.outputs]


def decoding(launch=0.0, spec=A4, **rest):
    """The launches of a decode attention, by entry; `launch` is what a second one costs."""
    recorder = Recorder()
    error_of(Case(**{"key": spec, "value": spec, "packed": 200, **rest}), recorder, launch)
    return {call.entry: call for call in recorder.calls}


def encoding(spec, dim, dtype):
    recorder = Recorder()
    FusedEncode(recorder)(base.build(spec, dim).form(), mx.zeros((1, 2, 9, dim), dtype=dtype))
    return recorder.calls[0]


def appending(key, value, dim, dtype):
    recorder = Recorder()
    quantizers, x = [base.build(spec, dim) for spec in (key, value)], mx.zeros((1, 2, 1, dim), dtype=dtype)
    stored = [quantizer.pack(mx, x) for quantizer in quantizers]
    FusedAppend(recorder).first(tuple(quantizer.form() for quantizer in quantizers), x, x, stored)
    return recorder.calls[0]


def compiled(call):
    return nvidia.compiled(nvidia.unit(call))


def test_a_unit_passes_what_the_text_names_in_the_order_of_mlx():
    text = nvidia.unit(decoding()["merge"])
    inputs = "const float* partials, const __grid_constant__ Shape partials_shape, const float* leads"
    outputs = "const float* counts, const __grid_constant__ Strides counts_strides, float* out) {"
    assert f"({inputs}, {outputs}" in text
    assert text.index("constexpr int DIM = 128;") < text.index(sources.statements("merge"))
    assert "using T = float;" in text


@toolkit
def test_text_that_cuda_would_not_compile_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "statements", lambda entry: "out[0] = no_such_thing;")
    with pytest.raises(BackendError, match="no_such_thing"):
        compiled(decoding()["merge"])


@toolkit
def test_without_a_gpu_the_usual_kernel_fits_as_often_as_the_plan_says():
    """Eight query heads per KV head of 128 channels, int4 in groups of 64: two threadgroups on a multiprocessor."""
    assert check_residence(128, 64, 8).spilled == 0


@toolkit
@pytest.mark.parametrize(
    "call",
    [
        lambda: decoding()["merge"],
        lambda: decoding(launch=1e9, dim=64, dtype=mx.bfloat16, matrix=False, group=1)["decode_whole"],
    ],
    ids=["merge", "decode_whole"],
)
def test_every_entry_compiles(call):
    assert compiled(call()).registers > 0


@toolkit
@pytest.mark.parametrize(
    ("name", "dim", "dtype"),
    [("affine4g64", 128, mx.float16), ("q4_0", 64, mx.bfloat16), ("turboquant3", 64, mx.float32)],
)
def test_encoders_round_as_written(name, dim, dtype):
    check_exact(encoding(FORMATS[name], dim, dtype))


@toolkit
@pytest.mark.parametrize(("key", "value"), [("affine4g64", "q8_0"), ("turboquant3", "q4_1")])
def test_single_tokens_are_rounded_as_written(key, value):
    check_exact(appending(FORMATS[key], FORMATS[value], 128, mx.bfloat16))


def check_exact(call):
    """Divisions round as IEEE says, nothing is fused, and small numbers stay."""
    ptx = compiled(call).ptx
    assert "div.rn.f32" in ptx
    assert not re.findall(r"\bfma\.|\bmad\.(?:rn|f32)|\.approx|\.ftz|\.full", ptx)


def check_residence(dim, group_size, group, dtype=mx.float16, **scoring):
    spec = QuantSpec(method="affine", bits=4, group_size=group_size)
    device = plan.cuda_device(dim, base.build(spec, dim).form().scale_bytes(dim), group)
    rest = {"simdgroups": device.simdgroups, "ahead": device.ahead, "threadgroups": 64, "dtype": dtype}
    calls = decoding(spec=spec, dim=dim, group=group, packed=600, **rest, **scoring)
    call = calls["decode_packed_scored" if scoring else "decode_packed"]
    found = compiled(call)
    resident = device.threadgroups // plan.multiprocessors()
    assert found.registers * call.threads * resident <= REGISTERS, found
    return found


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [mx.float16, mx.float32], ids=str)
@pytest.mark.parametrize("group", [1, 4, 8, 16])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("dim", [64, 128, 192, 256, 512])
def test_plans_assume_no_more_threadgroups_than_registers_hold(dim, group_size, group, dtype):
    if dim % group_size == 0:
        assert check_residence(dim, group_size, group, dtype).spilled <= 256


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize(
    "scoring",
    [{"sinks": mx.float16}, {"cap": 50.0}, {"bias": (True, True, mx.float16)}],
    ids=lambda scoring: next(iter(scoring)),
)
@pytest.mark.parametrize(("dim", "group"), [(64, 8), (128, 8), (192, 16), (256, 2), (512, 16)])
def test_what_scores_become_costs_no_residence(dim, group, scoring):
    assert check_residence(dim, 64, group, **scoring).spilled <= 256


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"])
def test_every_generation_of_gpus_compiles(architecture):
    calls = decoding(head=4, tail=90, dtype=mx.bfloat16) | decoding(dtype=mx.float16, matrix=False, group=2)
    for call in (*calls.values(), encoding(A4, 128, mx.bfloat16), appending(A4, A4, 128, mx.bfloat16)):
        nvidia.compiled(nvidia.unit(call), architecture)


@toolkit
@pytest.mark.slow
def test_the_text_agrees_with_the_libraries_that_mlx_includes_before_it():
    included = "cuda/std/complex", "cuda/std/array", "cuda/std/limits", "cuda/std/tuple"
    header = nvidia.DEVICE_HEADER.replace("namespace cooperative_groups {}", "#include <cooperative_groups.h>")
    header = "\n".join(f"#include <{name}>" for name in included) + header
    for call in (*decoding(head=4, tail=90).values(), decoding()["decode_packed"], encoding(A4, 128, mx.float16)):
        nvidia.compiled(nvidia.unit(call, header))


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("matrix", [True, False], ids=["matrix", "scalar"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_compiles(name, matrix, dtype):
    if not (matrix and name == "none"):
        for call in decoding(spec=FORMATS[name], matrix=matrix, group=8 if matrix else 2, dtype=dtype).values():
            compiled(call)


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 192, 256, 512])
def test_every_head_size_compiles(dim, dtype):
    spec = FORMATS["turboquant4"] if dim == 80 else A4G32
    for matrix, launch in ((True, 0.0), (False, 0.0), (True, 1e9), (False, 1e9)):
        for call in decoding(launch, spec=spec, dim=dim, dtype=dtype, matrix=matrix, group=8 if matrix else 2).values():
            compiled(call)


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("key", "value"), [("affine4g64", "q8_0"), ("turboquant2", "affine8g32"), ("none", "affine4g64"), ("q4_0", "none")]
)
def test_mixed_formats_with_16_bit_tokens_compile(key, value, dtype):
    matrix = "none" not in (key, value)
    calls = decoding(key=FORMATS[key], value=FORMATS[value], head=4, tail=90, matrix=matrix, dtype=dtype)
    assert set(calls) == {"decode", "merge"}
    for call in calls.values():
        compiled(call)


@toolkit
@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", sorted(name for name, spec in FORMATS.items() if base.build(spec, 128).form().encoder))
def test_every_encoder_compiles(name, dtype):
    for dim in (128, 512):
        check_exact(encoding(FORMATS[name], dim, dtype))
