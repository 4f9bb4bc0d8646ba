"""Every barrier of the kernels is needed, and the host emulation sees at once when one is missing."""

from __future__ import annotations

import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from emulation.host import Host
from fused_cases import FORMATS, Case, error_of, packed

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import sources
from swarm.kernels.fused.decode import DecodeAttention
from swarm.kernels.fused.encode import FusedEncode
from swarm.kernels.fused.operands import Frame, TokenRun
from swarm.kernels.fused.plan import Device
from swarm.kernels.fused.recent import FusedAppend
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

SYNC = re.compile(r"(?:kv::)?(?:group|simd)_sync\(\);")
A4 = QuantSpec(method="affine", bits=4, group_size=64)
SMALL = Case(dim=64, packed=70, group=3, threadgroups=4)
WIDE = Case(dim=512, packed=33)
BOOK = Case(key=FORMATS["turboquant4"], value=FORMATS["turboquant4"], dim=64, packed=40)
CHUNKS = Case(dim=64, packed=40, group=16, matrix=False, simdgroups=2)
ENCODERS = {
    "encode_affine.entry": A4,
    "encode_blocks.entry": QuantSpec(method="q4_0"),
    "encode_norms.entry": FORMATS["turboquant4"],
    "encode_minifloats.entry": FORMATS["nvfp4"],
    "append.h": A4,
}
FRAMED = "framed"  # the case of queries and outputs that kernels map
# File, which of its barriers, and a case that runs into its absence.
BARRIERS = [
    ("matrix_query.h", 0, SMALL),
    ("publish.h", 0, SMALL),
    ("publish.h", 2, SMALL),
    ("merge.h", 0, SMALL),
    ("encode_affine.entry", 0, None),
]
REST = [
    ("matrix_query.h", 1, WIDE),
    ("publish.h", 1, WIDE),
    ("decode.h", 0, CHUNKS),
    ("decode_packed.entry", 0, BOOK),
    ("encode_blocks.entry", 0, None),
    ("encode_norms.entry", 0, None),
    ("encode_minifloats.entry", 0, None),
    ("frame.h", 0, FRAMED),
    ("frame.h", 1, FRAMED),
    ("merge_framed.entry", 0, FRAMED),
    ("merge_framed.entry", 1, FRAMED),
    ("append.h", 0, None),
]


def remove(monkeypatch, file, which):
    """Take one barrier out of the kernel text."""
    read = sources.read
    found = list(SYNC.finditer(read(file)))[which]
    changed = read(file)[: found.start()] + ";" + read(file)[found.end() :]
    monkeypatch.setattr(sources, "read", lambda name: changed if name == file else read(name))
    monkeypatch.setattr(sources, "statements", sources.statements.__wrapped__)


def run(file, case):
    if case == FRAMED:
        return framed()
    if case is not None:
        return error_of(case)
    spec = ENCODERS[file]
    x = mx.array(np.random.default_rng(0).standard_normal((1, 1, 5, 64)).astype(np.float16))
    form = base.build(spec, 64).form()
    if file == "append.h":
        stored = base.build(spec, 64).pack(mx, x)
        return FusedAppend(Host()).first((form, form), x[:, :, :1], x[:, :, :1], (stored, stored))
    return mx.eval(FusedEncode(Host())(form, x))


def framed():
    """Attention over keys and values that were turned."""
    x = mx.array(np.random.default_rng(0).standard_normal((1, 1, 33, 64)).astype(np.float16))
    side = replace(packed(A4, "key", x, 0)[0], frame=Frame(64, mx.ones((1, 64)) / 8))
    attention = DecodeAttention(Host(), Device(4, 20, 4, 1))
    return mx.eval(attention(x[:, :, :2].reshape(1, 2, 1, 64), 0.1, TokenRun(side, side, 33)))


@pytest.mark.parametrize(
    ("file", "which", "case"), [*BARRIERS, *(pytest.param(*entry, marks=pytest.mark.slow) for entry in REST)],
    ids=lambda part: str(part) if isinstance(part, str | int) else "",
)  # fmt: skip
def test_a_barrier_that_is_taken_out_is_missed(monkeypatch, file, which, case):
    remove(monkeypatch, file, which)
    with pytest.raises(BackendError, match=r"race|before it was written"):
        run(file, case)


def test_no_barrier_is_left_out_of_this_list():
    files = {name for names in sources.BODIES.values() for name in names}
    files = {f"{name}.h" for name in files} | {
        f"{name}.entry" for names in sources.STATEMENTS.values() for name in names
    }
    there = {(file, i) for file in files for i, _ in enumerate(SYNC.finditer(sources.read(file)))}
    assert there == {(file, which) for file, which, _ in (*BARRIERS, *REST)}
