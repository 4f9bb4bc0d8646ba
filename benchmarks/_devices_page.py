"""The page of the benchmark `devices`: each configuration on each device, what differs, and why."""

from __future__ import annotations

from math import log
from typing import Any

from benchmarks import _frame

from swarm.agents.analysis import statistics

CPU, CPU_16, GPU_16, GPU_32 = "CPU, 32 bit", "CPU, 16 bit", "GPU, 16 bit", "GPU, 32 bit"
COMPARED = {"quality": "kld", "attention": "output_rel_error"}
TITLES = {"quality": "KLD, nats", "attention": "Relative error of the attention output"}


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    parts = [_frame.heading(record, "The same answers on every device")]
    if GPU_16 not in results["runs"]:
        parts.append("MLX computes on the CPU only here: types are compared, and there is no other device.\n")
    for protocol in COMPARED:
        parts.append(f"## {TITLES[protocol]}")
        parts += [_table(model, protocol, results["runs"], found) for model, found in results["models"].items()]
    failures = results.get("failures", [])
    if failures:
        parts.append("## Runs without an answer\n")
        parts += [f"- {one['protocol']} of {one['model']} on {one['run']}: {one['error']}." for one in failures]
        parts.append("")
    if GPU_16 in results["runs"]:
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


def answers(found: dict[str, Any], protocol: str) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Per configuration what every run measured; a run that did not measure it is left out."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for run, measured in found.items():
        for one in measured:
            if one["protocol"] == protocol:
                row = rows.setdefault(one["kv"], {})
                if "metrics" in one:
                    row[run] = one
    return list(rows.items())


def cause(row: dict[str, dict[str, Any]], metric: str) -> str:
    """Why a configuration differs between the CPU and the GPU as campaigns use them; empty where it does not.

    `type` where the difference goes with the CPU in 16 bit, `device` where it stays, `unknown` without that run.
    """
    if not {CPU, GPU_16} <= set(row) or verdict(row[CPU], row[GPU_16], metric)[1]:
        return ""
    if CPU_16 not in row:
        return "unknown"
    return "type" if verdict(row[CPU_16], row[GPU_16], metric)[1] else "device"


def _table(model: str, protocol: str, runs: list[str], found: dict[str, Any]) -> str:
    metric = COMPARED[protocol]
    pairs = [(a, b) for a, b in ((CPU, CPU_16), (CPU_16, GPU_16), (CPU, GPU_16), (CPU, GPU_32)) if b in runs]
    rows = []
    for kv, row in answers(found, protocol):
        cells = [f"{row[run]['metrics'][metric]:.4g}" if run in row else "failed" for run in runs]
        for a, b in pairs:
            if a not in row or b not in row:
                cells.append("")
                continue
            ratio, inside = verdict(row[a], row[b], metric)
            cells.append(f"{100 * (ratio - 1):+.2g}%" + " outside" * (not inside))
        rows.append((kv, *cells, cause(row, metric)))
    columns = (metric, *runs, *(f"{b} beside {a}" for a, b in pairs), "cause")
    return f"{model}\n\n" + _frame.table(columns, rows)


def _verdict(models: dict[str, Any]) -> str:
    """How many differences between CPU and GPU are outside the noise, and how many of them are the type's."""
    lines = []
    for model, found in models.items():
        for protocol, metric in COMPARED.items():
            rows = [row for _, row in answers(found, protocol) if {CPU, GPU_16} <= set(row)]
            causes = [cause(row, metric) for row in rows]
            count = {name: causes.count(name) for name in ("type", "device", "unknown")}
            line = f"- {model}, {metric}: {sum(count.values())} of {len(rows)} differ between CPU and GPU by more than "
            line += f"the noise; {count['type']} of these by the type alone, {count['device']} by the device"
            if count["device"]:
                named = (row[CPU]["kv"] for row, why in zip(rows, causes, strict=True) if why == "device")
                line += f" ({', '.join(named)})"
            lines.append(line + f", {count['unknown']} not told apart." if count["unknown"] else line + ".")
    return (
        "## What differs\n"
        "The CPU computes in 32 bit and the GPU in 16. A difference outside the noise (marked so above) that goes "
        "when the CPU computes in 16 bit too comes from the type of weights and activations; what stays comes from the "
        "device: the order of sums, and keys and values that are rounded elsewhere.\n\n" + "\n".join(lines) + "\n"
    )
