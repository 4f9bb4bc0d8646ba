"""The page of the benchmark `devices`: each configuration on each device, what differs, and why."""

from __future__ import annotations

from math import log
from typing import Any

from benchmarks import _frame

from swarm.agents.analysis import statistics

CPU, GPU_16, GPU_32 = "CPU, 32 bit", "GPU, 16 bit", "GPU, 32 bit"
COMPARED = {"quality": "kld", "attention": "output_rel_error"}
TITLES = {"quality": "KLD, nats", "attention": "Relative error of the attention output"}


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    parts = [_frame.heading(record, "The same answers on every device")]
    if len(results["runs"]) == 1:
        parts.append("MLX computes on the CPU only here: there is one device, and nothing to compare it with.\n")
    for protocol in COMPARED:
        parts.append(f"## {TITLES[protocol]}")
        parts += [_table(model, protocol, results["runs"], found) for model, found in results["models"].items()]
    failures = results.get("failures", [])
    if failures:
        parts.append("## Runs without an answer\n")
        parts += [f"- {one['protocol']} of {one['model']} on {one['run']}: {one['error']}." for one in failures]
        parts.append("")
    if len(results["runs"]) > 1:
        parts.append(_verdict(results["models"]))
    return "\n".join(parts)


def verdict(a: dict[str, Any], b: dict[str, Any], metric: str) -> tuple[float, bool]:
    """How many times a's value b's is, and whether that is inside the noise.

    It is when the 95% interval of ln(b / a), paired by text window, holds 0, or when the values differ by no more than
    the noise floor of either device: what two 16-bit runs that ought to say the same diverge by.
    """
    first, second = a["metrics"][metric], b["metrics"][metric]
    ratio = second / first if first else float(second == first)
    floor = max(run["metrics"].get("noise_kld", 0.0) for run in (a, b))
    if abs(second - first) <= floor:
        return ratio, True
    pairs = zip(a["windows"][f"window_{metric}"], b["windows"][f"window_{metric}"], strict=True)
    estimate = statistics.mean([log(y / x) for x, y in pairs if x > 0 and y > 0])
    if estimate is None:
        return ratio, first == second
    low, high = estimate.interval()
    return ratio, low <= 0 <= high


def _rows(found: dict[str, Any], protocol: str) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Per configuration what every run measured; a run that did not measure it is left out."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for run, answers in found.items():
        for one in answers:
            if one["protocol"] == protocol:
                row = rows.setdefault(one["kv"], {})
                if "metrics" in one:
                    row[run] = one
    return list(rows.items())


def _table(model: str, protocol: str, runs: list[str], found: dict[str, Any]) -> str:
    metric = COMPARED[protocol]
    rows = []
    for kv, row in _rows(found, protocol):
        cells = [f"{row[run]['metrics'][metric]:.4g}" if run in row else "failed" for run in runs]
        for run in runs[1:]:
            if CPU not in row or run not in row:
                cells.append("")
                continue
            ratio, inside = verdict(row[CPU], row[run], metric)
            cells.append(f"{100 * (ratio - 1):+.2g}% {'inside' if inside else 'outside'}")
        rows.append((kv, *cells))
    return f"{model}\n\n" + _frame.table((metric, *runs, *(f"{run} - CPU" for run in runs[1:])), rows)


def _verdict(models: dict[str, Any]) -> str:
    """How many differences are outside the noise, and how many of them go with the type."""
    lines = []
    for model, found in models.items():
        for protocol, metric in COMPARED.items():
            rows = [row for _, row in _rows(found, protocol) if {CPU, GPU_16} <= set(row)]
            outside = [row for row in rows if not verdict(row[CPU], row[GPU_16], metric)[1]]
            told = [row for row in outside if GPU_32 in row]
            left = [row for row in told if not verdict(row[CPU], row[GPU_32], metric)[1]]
            line = (
                f"- {model}, {metric}: {len(outside)} of {len(rows)} differ between 16 bit on the GPU and the CPU by "
            )
            line += f"more than the noise; in 32 bit on the GPU {len(left)} of these still do"
            if left:
                line += f" ({', '.join(row[CPU]['kv'] for row in left)})"
            if len(told) < len(outside):
                line += f", and {len(outside) - len(told)} were not measured there"
            lines.append(line + ".")
    text = (
        "What goes when activations are float32 on both comes from the type of the activations, not from the device.\n"
    )
    return "## What differs\n" + "\n".join(lines) + "\n\n" + text
