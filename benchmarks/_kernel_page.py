"""The page of one GPU's record of kernels: tables, and how the goals fared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _frame

from swarm.kernels.fused.peers import DEQUANTIZE, FUSED, QUANTIZED, SDPA, TORCH

PATHS = (FUSED, SDPA, DEQUANTIZE, QUANTIZED, TORCH)
SHARE = 0.85
SHAPE_SHARES = {"d = 512": 0.75}  # of other shapes
FORMAT_GOAL = 1.3  # times the first format's time, at the longest context
GOALS = {TORCH: 2, DEQUANTIZE: 10, QUANTIZED: 30}
"""The share of copy bandwidth, and how many times faster than a path, at the longest context of the first shape."""

Row = dict[str, Any]


def page(record: dict[str, Any], path: Path) -> str:
    """Markdown of a record that lies at `path`."""
    revision = f" at revision {record['git_revision'][:7]}" if record.get("git_revision") else ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    rows: list[Row] = record["timings"]
    first = rows[0]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    parts = [
        f"# Kernels on {record['device']}\n",
        f"Made from `docs/benchmarks/{path.name}`, which `python -m benchmarks.kernels` wrote on "
        f"{record['date']}{revision}: {record['device']}, Python {record['python']}.\n{versions}.\n",
        "Microseconds per decode step of one layer: median of nine evaluations of up to 400 dependent launches, buffers"
        f" rotating beyond every cache. A copy moved {record['copy_bandwidth']:.0f} GB/s in this run; `of copy` counts"
        " each packed byte of keys and values once.\n",
    ]
    alone = [shape for shape in shapes if all(row["path"] == FUSED for row in rows if row["shape"] == shape)]
    for shape in shapes:
        if shape in alone:
            continue
        here = [row for row in rows if (row["shape"], row["format"]) == (shape, first["format"])]
        ordered = sorted(here, key=lambda row: row["context"])
        parts += [f"## {shape}, {first['format']}\n", _table("tokens", "context", ordered)]
    longest = [row for row in rows if row["shape"] == first["shape"] and row["context"] == first["context"]]
    if len({row["format"] for row in longest}) > 1 and first["shape"] not in alone:
        parts += [f"## {first['shape']}, {first['context']:,} tokens\n", _table("format", "format", longest)]
    for shape in alone:
        here = [row for row in rows if row["shape"] == shape]
        parts += [f"## Formats, {shape}, {here[0]['context']:,} tokens\n", _formats(here)]
    if record.get("encoding"):
        parts += ["## Encoding the new tokens of one side\n", _encoding(record["encoding"])]
    text = "\n".join((*parts, _verdict(longest, first["format"], record.get("checks", []))))
    for row in rows:
        goal = SHAPE_SHARES.get(row["shape"])
        if goal is not None and row["format"] == first["format"]:
            said = f"{row['shape']}: at least {goal:.0%} of copy bandwidth"
            text += _frame.said(said, row["share"] >= goal, f"{row['share']:.1%}") + "\n"
    if ": not met" in text:
        text += "\nWhy goals are missed is said in [Kernels](../kernels.md#goals-that-are-missed).\n"
    return text


def _table(title: str, key: str, rows: Sequence[Row]) -> str:
    lines = []
    for value in dict.fromkeys(row[key] for row in rows):
        found = {row["path"]: row for row in rows if row[key] == value}
        times = [f"{found[path]['median']:,.1f}" if path in found else "-" for path in PATHS]
        ours = found[FUSED]
        spread = f"{ours['low']:.1f} to {ours['high']:.1f}"
        lines.append(
            (f"{value:,}" if isinstance(value, int) else value, times[0], spread, f"{ours['share']:.0%}", *times[1:])
        )
    return _frame.table((title, FUSED, "spread", "of copy", *PATHS[1:]), lines)


def _formats(rows: Sequence[Row]) -> str:
    """The kernel alone over formats, beside the bytes that it must read: both over the first format's."""
    lines = []
    for row in rows:
        time, size = (row[name] / rows[0][name] for name in ("median", "nbytes"))
        spread = f"{row['low']:.1f} to {row['high']:.1f}"
        said = "" if row is rows[0] else "yes" if time <= FORMAT_GOAL else "no"
        if said == "no" and size > FORMAT_GOAL:
            said = "no: its bytes alone are more"
        lines.append(
            (row["format"], f"{row['median']:.1f}", spread, f"{row['share']:.0%}", f"{time:.2f}", f"{size:.2f}", said)
        )
    base = rows[0]["format"]
    goal = f"within {FORMAT_GOAL}"
    return _frame.table(("format", FUSED, "spread", "of copy", f"time / {base}", f"bytes / {base}", goal), lines)


def _encoding(rows: Sequence[Row]) -> str:
    lines = [
        (
            row["format"],
            f"{row['tokens']:,}",
            *(f"{row[who][0]:.1f}" for who in ("kernel", "mlx")),
            f"{row['mlx'][0] / row['kernel'][0]:.1f}x",
        )
        for row in rows
    ]
    return _frame.table(("format", "tokens", "kernel, us", "MLX operations, us", "kernel is faster"), lines)


def _verdict(rows: Sequence[Row], label: str, checks: Sequence[Row]) -> str:
    found = {row["path"]: row for row in rows if row["format"] == label}
    ours = found[FUSED]
    lines = [_frame.said(f"at least {SHARE:.0%} of copy bandwidth", ours["share"] >= SHARE, f"{ours['share']:.1%}")]
    for path, goal in GOALS.items():
        if path in found:
            times = found[path]["median"] / ours["median"]
            lines.append(_frame.said(f"at least {goal}x faster than {path}", times >= goal, f"{times:.1f}x"))
    if checks:
        codes = [row["error"] for row in checks if row.get("encoder")]
        for kind in dict.fromkeys(row["type"] for row in checks if not row.get("encoder")):
            errors = [row["error"] for row in checks if row.get("type") == kind]
            lines.append(
                f"- {len(errors)} kernels against float64 on fresh tensors: largest relative error {max(errors):.1e},"
                f" queries and output in {kind}"
            )
        lines.append(f"- {len(codes)} encoders against the methods' own: {max(codes):.2%} of bytes differ")
    return "## The goals, and the checks of the same run\n\n" + "\n".join(lines) + "\n"
