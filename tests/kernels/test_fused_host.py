"""The host emulation catches what would go wrong on a GPU, and refuses text that Metal would refuse."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from emulation import compiling
from emulation.compiling import FLAGS
from emulation.host import Host, Signature, translation_unit

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import sources
from swarm.kernels.fused.launch import Kernel

REVERSE = """
KV_SHARED_ARRAY(float, line, 64);
const int i = int(thread_index_in_simdgroup) + 32 * int(simdgroup_index_in_threadgroup);
line[i] = x[i];
BARRIER
out[i] = line[63 - i];
"""


@pytest.fixture
def kernel(monkeypatch):
    """kernel(statements): run them with x [64] as input and out [64] as output, in several lane orders."""

    def run(statements, template=(), outputs=64, layouts=("cuda", "metal"), seeds=(0, 1, 2)):
        monkeypatch.setitem(sources.BODIES, "trial", ("formats",))
        monkeypatch.setattr(sources, "statements", lambda entry: statements)
        x = mx.arange(64, dtype=mx.float32)
        made = Kernel("trial", template, (("x", x.dtype),), (("out", (outputs,), mx.float32),), (1, 1, 1), 64)
        return [np.array(Host(layout, seed).run(made, [x])[0]) for layout in layouts for seed in seeds]

    return run


def test_lanes_meet_at_a_barrier(kernel):
    for out in kernel(REVERSE.replace("BARRIER", "kv::group_sync();")):
        assert (out == np.arange(64)[::-1]).all()


@pytest.mark.parametrize("instead", ["", "kv::simd_sync();"])
def test_a_missing_barrier_is_caught_in_every_lane_order(kernel, instead):
    for seed in range(4):
        with pytest.raises(BackendError, match=r"race|before it was written"):
            kernel(REVERSE.replace("BARRIER", instead), seeds=(seed,))


def test_a_missing_barrier_before_memory_is_used_again_is_caught(kernel):
    twice = REVERSE.replace("BARRIER", "kv::group_sync();") + "line[i] = 0.0f;"
    with pytest.raises(BackendError, match="race"):
        kernel(twice)


def test_a_simdgroup_barrier_orders_its_own_lanes(kernel):
    text = REVERSE.replace("63 - i", "(i ^ 5)").replace("BARRIER", "kv::simd_sync();")
    for out in kernel(text):
        assert (out == (np.arange(64) ^ 5)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out[int(thread_index_in_simdgroup)] = 1.0f;", "written twice"),
        ("out[1000] = x[0];", "outside its buffer: out"),
        ("out[0] = x[-1];", "outside its buffer: x"),
        ("KV_SHARED_ARRAY(float, a, 4); a[4] = 0.0f;", "outside its arrays"),
        ("if (thread_index_in_simdgroup < 3) kv::group_sync();", "divergence"),
        ("if (thread_index_in_simdgroup < 3) kv::simd_some(true);", "divergence"),
        ("kv::Words<4> w; kv::load_words<4>(kv::bytes_of(x) + 4, w);", "not aligned"),
        ("KV_SHARED_ARRAY(float, a, 8192); KV_SHARED_ARRAY(float, b, 4);", "32 KiB"),
        ("KV_SHARED_ARRAY(float, a, 4); out[0] = a[1];", "before it was written"),
    ],
)
def test_faults_are_named(kernel, text, message):
    with pytest.raises(BackendError, match=re.escape(message)):
        kernel(text, seeds=(1,))


@pytest.mark.parametrize(
    "text",
    [
        "float* p = x;",
        "KV_DEVICE(float) p = x;",
        "KV_SHARED_ARRAY(float, a, 4); KV_DEVICE(float) p = a;",
        "KV_SHARED(float) p = out;",
        "KV_SHARED_ARRAY(float, a, 8193);",
        "double y = 0; out[0] = y;",
        "float* p = new float[4];",
        "goto end; end: out[0] = x[0];",
        "const int thread = 0; out[thread] = x[0];",
        "auto f = [&] { return 1.0f; }; if constexpr (true) out[0] = f();",
        "float y = x[0] * 2.0; out[0] = y;",
    ],
)
def test_text_that_metal_would_not_compile_is_refused(kernel, text):
    with pytest.raises(BackendError, match="does not compile"):
        kernel(text, layouts=("metal",), seeds=(0,))


def test_what_is_not_written_stays_nan(kernel):
    (out,) = kernel(
        "if (thread_index_in_simdgroup == 0) out[simdgroup_index_in_threadgroup] = 1.0f;", seeds=(0,), layouts=("cuda",)
    )
    assert (out[:2] == 1).all()
    assert np.isnan(out[2:]).all()


@pytest.mark.parametrize("layout", ["cuda", "metal"])
def test_tiles_multiply_as_matrices(kernel, layout):
    """A tile product and its re-use as the next operand, against numpy, through the documented element order."""
    text = """
    const int lane = int(thread_index_in_simdgroup), row = kv::lane_row(lane), quad = kv::lane_quad(lane);
    if (simdgroup_index_in_threadgroup == 0) {
      kv::TileA a;
      for (int i = 0; i < 4; ++i) {
        const int r = row + 8 * (i & 1), c = 2 * quad + 8 * (i >> 1);
        a.v[i] = kv::make_pair(float((r * 16 + c) % 7 - 3), float((r * 16 + c + 1) % 7 - 3));
      }
      KV_SHARED_ARRAY(kv::half_t, halves, 128);
      for (int e = lane; e < 128; e += 32) {
        const int r = e / 8, c = e % 8;
        halves[4 * kv::tile_b_lane(r, c) + 2 * (r >> 3) + kv::tile_b_half(r, c)] =
            kv::Convert<kv::half_t>::from(float(e % 5 - 2));
      }
      kv::simd_sync();
      kv::TileB b;
      kv::load_tile_b(halves + 4 * lane, b);
      kv::TileC c = kv::tile_c_zero();
      kv::multiply_add(c, a, b);
      kv::TileC d = kv::tile_c_zero();
      kv::multiply_add(d, a, kv::tile_b_from_c(c.v[0], c.v[1], c.v[2], c.v[3]));
      for (int i = 0; i < 4; ++i) out[(row + 8 * (i >> 1)) * 8 + 2 * quad + (i & 1)] = d.v[i];
    }
    """
    (out,) = kernel(text, outputs=128, layouts=(layout,), seeds=(0,))
    a = (np.arange(256) % 7 - 3).reshape(16, 16)
    b = (np.arange(128) % 5 - 2).reshape(16, 8)
    assert (out.reshape(16, 8) == a @ (a @ b)).all()


@pytest.mark.parametrize("seed", range(3))
def test_float16_arithmetic_rounds_as_numpy_does(kernel, seed):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, 64, dtype=np.uint32)
    values = ", ".join(f"{int(b)}u" for b in bits)
    text = f"""
    const kv::uint bits[64] = {{{values}}};
    const int i = int(thread_index_in_simdgroup) + 32 * int(simdgroup_index_in_threadgroup);
    const kv::Pair p = kv::make_pair(kv::bits_float(bits[i]), 0.0f);
    out[i] = kv::pair_low(p);
    """
    (out,) = kernel(text, layouts=("cuda",), seeds=(0,))
    with np.errstate(over="ignore"):
        expected = bits.view(np.float32).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(out, expected)


def test_small_inputs_are_refused_before_metal_moves_them_to_another_address_space(monkeypatch):
    monkeypatch.setitem(sources.BODIES, "trial", ("formats",))
    monkeypatch.setattr(sources, "statements", lambda entry: "")
    made = Kernel("trial", (), (("x", mx.float32),), (("out", (1,), mx.float32),), (1, 1, 1), 32)
    with pytest.raises(BackendError, match="7 elements"):
        Host().run(made, [mx.zeros((7,))])
    with pytest.raises(BackendError, match=r"not mlx\.core\.float32"):
        Host().run(made, [mx.zeros((8,), mx.float16)])


def test_more_buffers_than_a_metal_kernel_takes_are_refused(monkeypatch):
    """Strides that the text names take one each, beside the arrays."""
    monkeypatch.setitem(sources.BODIES, "trial", ("formats",))
    names = [f"x{i}a" for i in range(16)]
    monkeypatch.setattr(sources, "statements", lambda entry: "".join(f"(void){name}_strides;" for name in names))
    made = Kernel("trial", (), tuple((name, mx.float32) for name in names), (), (1, 1, 1), 32)
    with pytest.raises(BackendError, match="32 buffers"):
        Host().run(made, [mx.zeros((8,))] * 16)


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match=r"apt install g\+\+"):
        compiling.shared_object("int never_compiled_before;")


@pytest.fixture
def decode_call():
    """decode_call(): the launches of one decode attention, as a back-end would get them."""
    from swarm.kernels.fused.decode import DecodeAttention
    from swarm.kernels.fused.operands import PackedSide, TokenRun
    from swarm.kernels.fused.plan import Device
    from swarm.kernels.quantizers import base
    from swarm.kernels.spec import QuantSpec

    class Recorder:
        def __init__(self):
            self.calls = []

        def run(self, kernel, arrays):
            self.calls.append(kernel)
            return [mx.zeros(shape, dtype=dtype) for _, shape, dtype in kernel.outputs]

    def make():
        quantizer = base.build(QuantSpec(method="affine", bits=4, group_size=64), 64)
        side = PackedSide(quantizer.form(), quantizer.encode(mx.random.normal((1, 1, 20, 64))))
        recorder = Recorder()
        DecodeAttention(recorder, Device(4, 0, 4, 1))(mx.zeros((1, 8, 1, 64)), 0.1, TokenRun(side, side, 20))
        return recorder.calls

    return make


def _call_graph(text, tmp_path):
    source = tmp_path / "kernel.cpp"
    source.write_text(compiling.prelude("metal") + text)
    compiling.run(*FLAGS, "-O0", "-fcallgraph-info", "-c", str(source), "-o", str(tmp_path / "kernel.o"))
    graph = (tmp_path / "kernel.ci").read_text()
    edges = re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph)
    return [(a, b) for a, b in edges if "kv" in a and "kv" in b and "host" not in a and "host" not in b]


def _cycle(edges):
    import networkx as nx

    return list(nx.simple_cycles(nx.DiGraph(edges)))


def test_recursion_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.BODIES, "trial", ("formats",))
    monkeypatch.setattr(sources, "statements", lambda entry: "out[0] = kv::down(3);" if entry == "trial" else "")
    made = Kernel("trial", (), (("x", mx.float32),), (("out", (1,), mx.float32),), (1, 1, 1), 32)
    unit = translation_unit([Signature.of(made)])
    recursive = "namespace kv { inline float down(int n) { return n ? down(n - 1) : 0.0f; } }\n"
    unit = unit.replace("namespace kernel_", recursive + "namespace kernel_", 1)
    assert _cycle(_call_graph(unit, tmp_path))


def test_the_kernels_do_not_recurse(tmp_path, decode_call):
    unit = translation_unit([Signature.of(call) for call in decode_call()])
    edges = _call_graph(unit, tmp_path)
    assert len(edges) > 50
    assert not _cycle(edges)


@pytest.mark.parametrize("entry", sorted(sources.BODIES))
def test_shared_text_keeps_to_what_all_three_preludes_offer(entry):
    text = re.sub(r"//.*", "", sources.body(entry) + sources.statements(entry))
    for word in ("asm", "std::", "float64", "double", "recursion", "__", "metal::", "cuda", "threadIdx", "simd_sum"):
        assert word not in text, word
    # References need Metal's address space.
    while (plain := re.sub(r"<[^<>;{}]*>", "", text)) != text:
        text = plain
    references = re.findall(r"([\w: ]*\w)& \w+\s*[,)]", text) + re.findall(r"([\w ]+)\(&\w+\)", text)
    assert references or entry == "merge"
    assert not [reference for reference in references if "KV_THREAD" not in reference]


def test_every_prelude_offers_the_same_names():
    names = {}
    for prelude in ("cuda", "metal", "host"):
        text = compiling.prelude("cuda") if prelude == "host" else sources.read(f"prelude_{prelude}.h")
        names[prelude] = set(re.findall(r"\b(?:KV_[A-Z_0-9]+|[a-z]\w+)\b", text))
    for entry in sources.BODIES:
        text = re.sub(r"//.*", "", sources.body(entry) + sources.statements(entry))
        used = set(re.findall(r"\bKV_[A-Z_0-9]+\b", text)) & set().union(*names.values())
        called = set(re.findall(r"\b([a-z]\w+)\(", text)) & set().union(*names.values())
        called -= {"sizeof", "static_assert"}
        for prelude, offered in names.items():
            missing = {word for word in used | called if word not in offered and not _defined(text, word)}
            assert not missing, (prelude, entry, missing)


def _defined(text, word):
    return re.search(rf"KV_FUNC [\w<>:, ]*\b{word}\(", text) is not None


def test_a_changed_text_changes_the_name_under_which_mlx_keeps_a_kernel(monkeypatch):
    before = sources.digest("decode", "metal")
    sources.digest.cache_clear()
    monkeypatch.setattr(sources, "statements", lambda entry: "other")
    assert sources.digest("decode", "metal") != before
    sources.digest.cache_clear()


def test_calls_of_other_types_are_other_kernels(decode_call):
    call = decode_call()[0]
    other = replace(call, template=(*call.template[:-1], ("H_CODES", 4)))
    assert Signature.of(call).symbol != Signature.of(other).symbol


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv builds the wheel")
def test_the_wheel_ships_the_kernel_text(tmp_path):
    root = Path(__file__).resolve().parents[2]
    subprocess.run(["uv", "build", "--wheel", "-o", str(tmp_path)], cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/fused/source/" in name}
    assert shipped == {file.name for file in (root / "kernels/fused/source").iterdir()}
