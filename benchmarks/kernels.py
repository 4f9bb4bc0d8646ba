"""Times fused decode attention against its alternatives on this machine's GPU; prints tables and writes JSON.

    uv run --no-group cpu --group cuda python -m benchmarks.kernels --docs    (NVIDIA)
    uv run python -m benchmarks.kernels --docs                                (a Mac with Apple silicon)

Every format is timed, and checked against float64. `--short` times one shape only, `--only` does parts of all this.
`--docs` writes record and page into docs/benchmarks, and on a Mac the measured column of docs/kernels.md; `--page`
with files makes record and page of parts that ran on one machine.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _apple, _kernel_checks, _kernel_encode, _kernel_page

from swarm.kernels.errors import SwarmError
from swarm.kernels.fused import peers
from swarm.kernels.fused.half_precision import AttentionShape
from swarm.kernels.fused.peers import FUSED
from swarm.kernels.fused.timing import BENCHMARK, Roof
from swarm.kernels.quantizers import base
from swarm.kernels.spec import QuantSpec

if TYPE_CHECKING:
    from swarm.kernels.backends.base import Backend

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "kernels.md"
LLAMA = AttentionShape("Llama-3.1-70B", 64, 8, 128)
SHAPES = (LLAMA, AttentionShape("Gemma-4 window", 32, 16, 256, 1024), AttentionShape("Gemma-4 global", 32, 4, 512))
FORMAT_SHAPES = {
    "formats": (AttentionShape("Llama-3.1-8B", 32, 8, 128),),
    "wide": (AttentionShape("d = 256", 32, 8, 256), AttentionShape("d = 512", 32, 4, 512)),
}
PARTS = ("shapes", *FORMAT_SHAPES, "encoding", "checks")
CONTEXTS = (1024, 8192, 32768, 131072)
AFFINE4 = QuantSpec(method="affine", bits=4, group_size=64)
FORMATS = (
    AFFINE4,
    *(QuantSpec(method="affine", bits=bits, group_size=group) for bits, group in ((2, 64), (8, 64), (4, 32), (4, 128))),
    *(QuantSpec(method=name) for name in ("q4_0", "q8_0", "q5_0", "q5_1", "mxfp4", "mxfp8", "nvfp4")),
    *(QuantSpec(method="turboquant_mse", bits=bits) for bits in (2, 3, 4)),
    *(QuantSpec(method="kivi", bits=bits, group_size=32) for bits in (2, 4)),
    QuantSpec(method="polarquant", bits=4),
)
NOT_PACKED_BY_KERNELS = ("kivi", "polarquant")
PACKED_BY_KERNELS = tuple(spec for spec in FORMATS if spec.method not in NOT_PACKED_BY_KERNELS)


def main() -> int:
    """Check, time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", "--json", dest="json", type=Path, help="where to write all numbers")
    parser.add_argument("--short", "--quick", dest="quick", action="store_true", help="only the first shape, no checks")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--docs", action="store_true", help="record the numbers in docs/")
    parser.add_argument("--cases", type=int, help="check so many kernels at most, spread over all")
    parser.add_argument("--jobs", type=int, default=min(12, os.cpu_count() or 1), help="processes that check")
    parser.add_argument("--page", type=Path, nargs="+", metavar="FILE", help="run nothing: write the page of these")
    options = parser.parse_args()
    if options.page:
        try:
            record = joined([json.loads(path.read_text()) for path in options.page])
            if len(options.page) > 1:
                write(record_path(record), record)
            write_page(options.page[0] if len(options.page) == 1 else record_path(record), record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{options.page[0]} is no record of kernels ({error}); write one with --out")
        return 0
    try:
        backend = peers.backend_of_this_machine()
    except SwarmError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    record = environment(backend.name)
    if options.docs and options.json is None:
        options.json = record_path(record)
    parts = ("shapes",) if options.quick else options.only
    for part in parts:
        if part == "checks":
            record["checks"] = checks(options.jobs, options.cases)
        else:
            record |= {"timings": record.get("timings", [])} | measured(backend, part, options.quick, record)
        write(options.json, record)
    if options.docs and backend.name == "metal" and "shapes" in parts:
        PAGE.write_text(with_measured(PAGE.read_text(), record))
        print(f"wrote {PAGE}")
    if options.docs and record.get("timings"):
        write_page(options.json, record)
    return 1 if any(not row["error"] <= row["limit"] for row in record.get("checks", [])) else 0


def checks(jobs: int, most: int | None) -> list[dict]:
    """Attention of every format and the encoders on this device, with what is wrong printed."""
    found = _kernel_checks.decode(FORMATS, jobs, most) + _kernel_checks.encode(PACKED_BY_KERNELS, tokens=(37, 4096))
    failed = [row for row in found if not row["error"] <= row["limit"]]
    worst = max(row["error"] for row in found)
    print(f"{len(found)} checks, largest relative error {worst:.1e}, {len(failed)} failed")
    for row in failed:
        print(f"WRONG: {row}")
    return found


def joined(records: Sequence[dict]) -> dict:
    """One record of parts that ran on one machine.

    Raises:
        ValueError: on different ones, or with different versions.
    """
    record: dict = {}
    for part in records:
        for name, found in part.items():
            if isinstance(found, list):
                record[name] = record.get(name, []) + found
            elif name in ("device", "versions") and record.get(name, found) != found:
                raise ValueError(f"parts of different {name}")
            else:
                record.setdefault(name, found)
    return record


def write_page(path: Path, record: dict) -> None:
    """The page of a record, beside it."""
    path.with_suffix(".md").write_text(_kernel_page.page(record, path))
    print(f"wrote {path.with_suffix('.md')}")


def measured(backend: Backend, part: str, quick: bool, record: dict) -> dict:
    """Print the tables of a part and return their numbers."""
    if part == "encoding":
        return {"encoding": _kernel_encode.table(backend.fused.launcher, PACKED_BY_KERNELS)}
    roof = Roof.measured()
    print(f"copy bandwidth {roof.copy:.0f} GB/s, float16 matrix product {roof.flops:.0f} TFLOP/s\n")
    rows = list(record.get("timings", []))
    if part in FORMAT_SHAPES:
        for shape in FORMAT_SHAPES[part]:
            rows += by_format(backend, shape, roof.copy)
    else:
        for shape in SHAPES[:1] if quick else SHAPES:
            rows += table(backend, shape, CONTEXTS if shape.window is None else CONTEXTS[::3], roof.copy)
    return {"copy_bandwidth": roof.copy, "matrix_tflops": roof.flops, "timings": rows}


def by_format(backend: Backend, shape: AttentionShape, bandwidth: float) -> list[dict]:
    """The kernel alone over every format at the longest context: print and return its numbers."""
    print(
        f"{shape.name}: {shape.q_heads} query heads, {shape.kv_heads} KV heads, d = {shape.head_dim}, {CONTEXTS[-1]:,}"
    )
    rows: list[dict] = []
    for spec in FORMATS:
        if not _kernel_checks.fits(spec, shape.head_dim):
            continue
        entry = peers.kernel(backend, shape, spec, spec, CONTEXTS[-1], BENCHMARK)
        row = {"shape": shape.name, "format": spec.label, "context": CONTEXTS[-1], **entry.record()}
        rows.append(row | {"share": entry.bandwidth / bandwidth})
        times, size = (rows[-1][name] / rows[0][name] for name in ("median", "nbytes"))
        print(
            f"{spec.label:28} {entry.median:7.1f} us ({entry.low:.1f} to {entry.high:.1f}), "
            f"{entry.bandwidth:.0f} GB/s, {times:.2f}x the time and {size:.2f}x the bytes of {rows[0]['format']}",
            flush=True,
        )
    return rows


def record_path(record: dict) -> Path:
    """Where the numbers of a device are kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    return DOCS / "benchmarks" / f"kernels-{slug}.json"


def with_measured(page: str, record: dict) -> str:
    """docs/kernels.md with what a Mac measured in its chip's row: 128K tokens of the first shape and format."""
    ours = next(row for row in record["timings"] if row["path"] == FUSED and row["context"] == CONTEXTS[-1])
    chip = record["device"].removeprefix("Apple ")
    bits = base.build(AFFINE4, LLAMA.head_dim).bits_per_value()
    share = f"{ours['share']:.0%} of copy ({record['copy_bandwidth']:.0f} GB/s)"
    measured = f"{ours['median'] / 1e3:.2f} ms, {share}, {record['date']}"
    return _apple.filled(page, chip, _apple.predicted(chip, LLAMA, CONTEXTS[-1], bits), measured)


def write(path: Path | None, record: dict) -> None:
    """All numbers as JSON, where a path was given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {path}", flush=True)


def table(backend: Backend, shape: AttentionShape, contexts: Sequence[int], bandwidth: float) -> list[dict]:
    """Print one table of the first format and return its numbers."""
    spec, window = AFFINE4, f", window {shape.window}" if shape.window else ""
    print(f"{shape.name}: {shape.q_heads} query heads, {shape.kv_heads} KV heads, d = {shape.head_dim}{window}")
    print("| format | context | path | us | spread | GB/s | of copy | fused is faster |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for context in reversed(contexts):
        timings, refused = peers.compare(backend, shape, spec, spec, context)
        ours = timings[0].median
        for entry in timings:
            share = entry.bandwidth / bandwidth
            spread = f"{entry.low:.1f} to {entry.high:.1f}"
            speed = f"{entry.bandwidth:.0f} | {share:.0%} | {entry.median / ours:.1f}x"
            print(f"| {spec.label} | {context} | {entry.path} | {entry.median:.1f} | {spread} | {speed} |", flush=True)
            rows.append(
                {"shape": shape.name, "format": spec.label, "context": context, "share": share, **entry.record()}
            )
        for path, why in refused.items():
            print(f"| {spec.label} | {context} | {path} | does not run: {why} | | | | |")
    print()
    return rows


def environment(name: str) -> dict:
    """Device, versions, date and revision."""
    import mlx.core as mx

    from swarm.experiments.environment import git_revision

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
        "git_revision": git_revision(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
