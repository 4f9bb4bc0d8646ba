"""The page of `benchmarks.endtoend`: tables per model, and how the goals fared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import _frame

OURS, SIXTEEN = "ours, affine4/g64", "mlx-lm 16 bit"
TORCH = "transformers, torch SDPA, 16-bit weights"  # on a GPU
OWN_SIXTEEN, OUT_OF_THE_BOX = "ours, 16 bit", "mlx-lm out of the box"  # on a CPU
GOALS = {1024: 0.97, 8192: 0.97, 32_768: 1.2, 131_072: 1.6}  # of decode, 16 bit over ours
PREFILL_GOAL = 1.10  # ours over 16 bit
PEAK_GOALS = {("Llama 3.1 70B", 131_072): 54}  # gigabytes while decoding


def page(record: _frame.Results) -> str:
    """The record in words."""
    results = record["results"]
    text = _frame.heading(record, "Whole models over a packed cache")
    text += (
        "\nMilliseconds, median of the rounds; the ratio is 16 bit over the path (above 1 is faster than 16 bit) with "
        "its extremes over all pairs of rounds. Caches are filled with random vectors. `roofline` is what weights and "
        "cache take at the bandwidth of a copy measured in the same run. Where the time "
        "of a step on a GPU goes is in [Kernels](../kernels.md#decoding-a-whole-model).\n"
    )
    if results["device"] == "cpu":
        text += (
            "\nOn the CPU models run in float32, and so do mlx-lm's own caches in the same process: ratios are to "
            f"*{OWN_SIXTEEN}*. *{OUT_OF_THE_BOX}* runs in a process of its own with MLX's BLAS and 16-bit weights.\n"
        )
    text += "".join(f"\n{note}\n" for note in results.get("notes", ()))
    if any(len(row.get("ms", ())) == 1 for row in results["rows"]):
        text += (
            "\nRows of the larger models hold the median of their rounds alone, so that their ratios show no spread.\n"
        )
    for model in dict.fromkeys(row["model"] for row in results["rows"]):
        text += f"\n## {model}\n"
        for job, title in (("decode", "Decode, ms per step"), ("prefill", f"Prefill, {results['chunk']} tokens")):
            rows = [row for row in results["rows"] if row["model"] == model and row["job"] == job]
            if not rows:
                continue
            columns = ("path", "depth", "batch", "ms", "16 bit / path", "cache GB", "peak GB", "roofline")
            text += f"\n{title}\n\n" + _frame.table(columns, [_line(row, rows, results) for row in rows])
        text += "\n" + "\n".join(_goals([row for row in results["rows"] if row["model"] == model])) + "\n"
    if ": not met" in text:
        text += "\nWhy goals are missed is said in [Kernels](../kernels.md#goals-that-are-missed).\n"
    return text


def _line(row: dict[str, Any], rows: Sequence[dict[str, Any]], results: _frame.Results) -> Sequence[object]:
    head = (row["path"], f"{row['depth']:,}", row["batch"])
    if "refused" in row:
        return (*head, f"does not run: {row['refused']}", "", "", "", "")
    other = _beside(row, rows, _base(rows))
    ratio = _frame.times(_frame.ratio(other["ms"], row["ms"])) if other else ""
    least = ""
    if row["job"] == "decode" and results["copy_gb_per_s"]:
        least = f"{(row['weights_gb'] + row['cache_gb']) / results['copy_gb_per_s'] * 1e3:.2f}"
    sizes = (f"{row['cache_gb']:.2f}", f"{row['peak_gb']:.1f}")
    return (*head, f"{statistics.median(row['ms']):.2f}", ratio, *sizes, least)


def _base(rows: Sequence[dict[str, Any]]) -> str:
    """The path that others are compared with: on a CPU ours, as mlx-lm's cache is as wide as the model's float32."""
    return OWN_SIXTEEN if any(row["path"] == OWN_SIXTEEN for row in rows) else SIXTEEN


def _beside(row: dict[str, Any], rows: Sequence[dict[str, Any]], path: str) -> dict[str, Any] | None:
    """What another path took for the same work."""
    key = ("job", "depth", "batch")
    same = (r for r in rows if r["path"] == path and "ms" in r and all(r[k] == row[k] for k in key))
    return next(same, None)


def _goals(rows: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    for row in rows:
        if row["path"] != OURS or "ms" not in row:
            continue
        beside = {path: _beside(row, rows, path) for path in (SIXTEEN, OWN_SIXTEEN, OUT_OF_THE_BOX)}
        ratios = {path: statistics.median(o["ms"]) / statistics.median(row["ms"]) for path, o in beside.items() if o}
        at = f"{row['job'].capitalize()} at {row['depth']:,}"
        said += [
            _frame.said(f"{at}: not slower than {path}", ratios[path] >= 1, f"{ratios[path]:.2f}x")
            for path in (OWN_SIXTEEN, OUT_OF_THE_BOX)
            if path in ratios
        ]
        if _base(rows) != SIXTEEN or SIXTEEN not in ratios:
            continue
        ratio = ratios[SIXTEEN]
        if row["job"] == "decode" and row["batch"] == 1 and row["depth"] in GOALS:
            goal = GOALS[row["depth"]]
            said.append(_frame.said(f"{at}: {goal}x 16 bit", ratio >= goal, f"{ratio:.2f}x"))
            most = PEAK_GOALS.get((row["model"], row["depth"]))
            if most is not None:
                said.append(_frame.said(f"{at}: at most {most} GB", row["peak_gb"] <= most, f"{row['peak_gb']:.1f} GB"))
        elif row["job"] == "decode" and row["batch"] > 1:
            said.append(_frame.said(f"{at}, batch {row['batch']}: faster than 16 bit", ratio > 1, f"{ratio:.2f}x"))
        elif row["job"] == "prefill":
            said.append(
                _frame.said(f"{at}: within {PREFILL_GOAL}x of 16 bit", 1 / ratio <= PREFILL_GOAL, f"{1 / ratio:.2f}x")
            )
    return said
