"""Times fused decode attention against its alternatives on this machine's GPU; prints tables and writes JSON.

    uv run --no-group cpu --group cuda benchmarks/kernels.py      (NVIDIA)
    python benchmarks/kernels.py                                  (a Mac with Apple silicon, after `pip install .`)

Every format is timed, and checked against float64. `--short` times one shape only.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swarm.kernels.errors import SwarmError
from swarm.kernels.fused import timing
from swarm.kernels.fused.decode import HEAD_DIMS, DecodeAttention, DenseSide, PackedSide, Run
from swarm.kernels.fused.paths import Shape
from swarm.kernels.fused.rates import Roof
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

if TYPE_CHECKING:
    import mlx.core as mx

    from swarm.kernels.backends.base import Backend

LLAMA = Shape("Llama-3.1-70B", 64, 8, 128)
SHAPES = (LLAMA, Shape("Gemma-4 window", 32, 16, 256, 1024), Shape("Gemma-4 global", 32, 4, 512))
CONTEXTS = (1024, 8192, 32768, 131072)
AFFINE4 = QuantSpec(method="affine", bits=4, group_size=64)
FORMATS = (
    AFFINE4,
    *(QuantSpec(method="affine", bits=bits, group_size=group) for bits, group in ((2, 64), (8, 64), (4, 32), (4, 128))),
    *(QuantSpec(method=name) for name in ("q4_0", "q8_0")),
    *(QuantSpec(method="turboquant_mse", bits=bits) for bits in (2, 3, 4)),
)
# KV heads, query heads of each, packed tokens, 16-bit tokens before and behind them
CASES = ((2, 8, 1003, 4, 37), (1, 3, 77, 0, 0), (1, 16, 260, 2, 130))
LIMIT = 2e-3  # relative error of float16 output


def main() -> int:
    """Check, time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", "--json", dest="json", type=Path, help="where to write all numbers")
    parser.add_argument("--short", "--quick", dest="quick", action="store_true", help="only the first shape, no checks")
    parser.add_argument("--checks", action="store_true", help="only the checks")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that check")
    options = parser.parse_args()
    try:
        backend = timing.backend_of_this_machine()
    except SwarmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    record = environment(backend.name)
    if not options.checks:
        record |= tables(backend, options.quick)
        write(options.json, record)
    checks = [] if options.quick else check(options.jobs)
    failed = [row for row in checks if not row["error"] < LIMIT]
    if checks:
        worst = max(row["error"] for row in checks)
        print(f"{len(checks)} checks against float64, largest relative error {worst:.1e}, {len(failed)} above {LIMIT}")
    for row in failed:
        print(f"WRONG: {row}")
    write(options.json, {**record, "checks": checks})
    return 1 if failed else 0


def tables(backend: Backend, quick: bool) -> dict:
    """Print the tables and return their numbers."""
    roof = Roof.measured()
    bandwidth = roof.copy
    print(f"copy bandwidth {bandwidth:.0f} GB/s, float16 matrix product {roof.flops:.0f} TFLOP/s\n")
    rows = []
    for shape in SHAPES[:1] if quick else SHAPES:
        rows += table(backend, shape, [AFFINE4], CONTEXTS if shape.window is None else CONTEXTS[::3], bandwidth)
    if not quick:
        rows += table(backend, LLAMA, FORMATS[1:], CONTEXTS[-1:], bandwidth)
    return {"copy_bandwidth": bandwidth, "matrix_tflops": roof.flops, "timings": rows}


def write(path: Path | None, record: dict) -> None:
    """All numbers as JSON, where a path was given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {path}", flush=True)


def check(jobs: int) -> list[dict]:
    """Relative errors on this device, over formats, head sizes, groups and segments.

    Every case is a kernel of its own, and compiling one takes seconds: several processes share the work.
    """
    cases = [(spec, dim, case) for spec in FORMATS for dim in HEAD_DIMS if fits(spec, dim) for case in CASES]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=own_kernel_cache) as pool:
        errors = list(pool.map(error_of, *zip(*cases, strict=True), range(len(cases))))
    return [
        {"format": spec.label, "head_dim": dim, "group": case[1], "tokens": case[2], "error": error}
        for (spec, dim, case), error in zip(cases, errors, strict=True)
    ]


def own_kernel_cache() -> None:
    """Give this process compiled kernels of its own: MLX's processes read each other's files half written."""
    os.environ["MLX_PTX_CACHE_DIR"] = tempfile.mkdtemp(prefix="kernel-checks-")


def fits(spec: QuantSpec, dim: int) -> bool:
    """Whether the format takes heads of this size."""
    try:
        base.method(spec.method).check_head_dim(spec, dim)
    except SwarmError:
        return False
    return True


def error_of(spec: QuantSpec, dim: int, case: tuple[int, ...], seed: int) -> float:
    """Relative error of one case on fresh tensors."""
    import mlx.core as mx

    fused = timing.backend_of_this_machine().fused
    if fused is None:
        raise TypeError("a GPU without kernels")
    heads, group, tokens, head, tail = case
    rng = np.random.default_rng(seed)

    def vectors(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(mx.float16)

    def wide(x: mx.array) -> np.ndarray:
        return np.array(x.astype(mx.float32)).astype(np.float64)

    quantizer = base.build(spec, dim)
    first = 5
    parts = [quantizer.encode(vectors(2, heads, tokens + first, dim)) for _ in "kv"]
    runs = {"packed": Run(*(side(quantizer, part, first) for part in parts), tokens)}
    columns = [[wide(quantizer.decode(part))[:, :, first:]] for part in parts]
    for name, count in (("head", head), ("tail", tail)):
        if count:
            pair = [vectors(2, heads, count, dim) for _ in "kv"]
            runs[name] = Run(*(DenseSide(x) for x in pair), count)
            for column, x in zip(columns, pair, strict=True):
                column.append(wide(x))
    k, v = (np.concatenate(column, axis=2) for column in columns)
    q = vectors(2, heads * group, 1, dim)
    groups = dim // scale_group(quantizer, dim)
    attention = DecodeAttention(fused.launcher, fused.device_of(dim, groups, group))
    out, _ = attention(q, 0.1, runs["packed"], head=runs.get("head"), tail=runs.get("tail"))
    scores = 0.1 * np.einsum("bhgd,bhtd->bhgt", wide(q).reshape(2, heads, group, dim), k)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = np.einsum("bhgt,bhtd->bhgd", shares / shares.sum(axis=-1, keepdims=True), v).reshape(q.shape)
    return float(np.linalg.norm(wide(out) - expected) / np.linalg.norm(expected))


def scale_group(quantizer: base.Quantizer, dim: int) -> int:
    """Channels that share a scale."""
    form = quantizer.form()
    return dim if form is None else form.group


def side(quantizer: base.Quantizer, parts: dict[str, mx.array], first: int) -> PackedSide:
    """What a kernel is given for packed arrays of a format."""
    form = quantizer.form()
    if form is None:
        raise TypeError(f"no kernel reads {quantizer.spec.label}")
    return PackedSide(form, parts, first)


def table(
    backend: Backend, shape: Shape, formats: Sequence[QuantSpec], contexts: Sequence[int], bandwidth: float
) -> list[dict]:
    """Print one table and return its numbers."""
    window = f", window {shape.window}" if shape.window else ""
    print(f"{shape.name}: {shape.q_heads} query heads, {shape.kv_heads} KV heads, d = {shape.head_dim}{window}")
    print("| format | context | path | us | spread | GB/s | of copy | fused is faster |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for spec in formats:
        for context in reversed(contexts):
            timings, refused = timing.compare(backend, shape, spec, spec, context)
            ours = timings[0].median
            for entry in timings:
                share = entry.bandwidth / bandwidth
                spread = f"{entry.low:.1f} to {entry.high:.1f}"
                speed = f"{entry.bandwidth:.0f} | {share:.0%} | {entry.median / ours:.1f}x"
                print(
                    f"| {spec.label} | {context} | {entry.path} | {entry.median:.1f} | {spread} | {speed} |", flush=True
                )
                rows.append(
                    {"shape": shape.name, "format": spec.label, "context": context, "share": share, **entry.record()}
                )
            for path, why in refused.items():
                print(f"| {spec.label} | {context} | {path} | does not run: {why} | | | | |")
    print()
    return rows


def environment(name: str) -> dict:
    """Device, versions and date."""
    import mlx.core as mx

    versions = {}
    for package in ("mlx", "mlx-cuda-13", "mlx-lm", "torch", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "backend": name,
        "device": str(mx.device_info().get("device_name", "")),
        "versions": versions,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
