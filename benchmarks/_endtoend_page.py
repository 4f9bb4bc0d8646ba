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
SIZES = ("cache GB", "peak GB", "roofline")
PEAK_GOALS = {("Llama 3.1 70B", 131_072): 54}  # gigabytes while decoding


_ONE_BY_ONE = (
    "Milliseconds, median of the rounds; the ratio is 16 bit over the path (above 1 is faster than 16 bit) with "
    "its extremes over all pairs of rounds. "
)
_IN_TURNS = (
    "Paths take turns, round by round. Milliseconds: `median` and `mean` of the steps of a round, each the median over "
    "rounds; `Python` is the part of a step in which the host builds its graph. Ratios are 16 bit over the path (above "
    "1 is faster than 16 bit), of each round with the one of 16 bit beside it: their median, with extremes, by means, "
    "and by medians of steps, which leave out slow steps. Goals go by means. A peak is that of weights and of one "
    "path; what caches of others held meanwhile is taken off. "
)


def page(record: _frame.Results) -> str:
    """The record in words."""
    results = record["results"]
    models = "whole models over a packed cache"
    is_prefill = all(row["job"] == "prefill" for row in results["rows"])
    text = _frame.heading(record, f"Prefill of {models}" if is_prefill else models.capitalize())
    text += "\n" + (_IN_TURNS if any("mean_ms" in row for row in results["rows"]) else _ONE_BY_ONE)
    text += (
        "Caches are filled with random vectors. `roofline` is what weights and "
        "cache take at the bandwidth of a copy measured in the same run. Where the time "
        "of a step on a GPU goes is in [Kernels](../kernels.md#decoding-a-whole-model).\n"
    )
    if results["device"] == "cpu":
        text += (
            "\nOn the CPU models run in float32, and so do mlx-lm's own caches in the same process: ratios are to "
            f"*{OWN_SIXTEEN}*. *{OUT_OF_THE_BOX}* runs in a process of its own with MLX's BLAS and 16-bit weights.\n"
        )
    text += "".join(f"\n{note}\n" for note in dict.fromkeys(results.get("notes", ())))
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
            line, columns = _line, ("path", "depth", "batch", "ms", "16 bit / path", *SIZES)
            if job == "decode" and any("mean_ms" in row for row in rows):
                timed = ("median ms", "mean ms", "Python", "16 bit / path", "by medians")
                line, columns = _steps_line, ("path", "depth", "batch", *timed, *SIZES)
            text += f"\n{title}\n\n" + _frame.table(columns, [line(row, rows, results) for row in rows])
        text += "\n" + "\n".join(_goals([row for row in results["rows"] if row["model"] == model])) + "\n"
    if ": not met" in text:
        text += "\nWhy goals are missed is said in [Kernels](../kernels.md#goals-that-are-missed).\n"
    return text


def _line(row: dict[str, Any], rows: Sequence[dict[str, Any]], results: _frame.Results) -> Sequence[object]:
    head = (row["path"], f"{row['depth']:,}", row["batch"])
    if "refused" in row:
        return (*head, f"does not run: {row['refused']}", "", "", "", "")
    other = _beside(row, rows, _base(rows))
    ratio = _frame.times(_ratio(other, row, "ms")) if other else ""
    return (*head, f"{statistics.median(row['ms']):.2f}", ratio, *_sizes(row, results))


def _steps_line(row: dict[str, Any], rows: Sequence[dict[str, Any]], results: _frame.Results) -> Sequence[object]:
    head = (row["path"], f"{row['depth']:,}", row["batch"])
    if "refused" in row:
        return (*head, f"does not run: {row['refused']}", *[""] * 7)
    other = _beside(row, rows, _base(rows))
    ratios = [_frame.times(_ratio(other, row, name)) if other else "" for name in ("mean_ms", "ms")]
    built = statistics.median(row["build_ms"]) / statistics.median(row["ms"]) if "build_ms" in row else None
    took = [f"{statistics.median(row[name]):.2f}" if name in row else "" for name in ("ms", "mean_ms")]
    return (*head, *took, "" if built is None else f"{built:.0%}", *ratios, *_sizes(row, results))


def _sizes(row: dict[str, Any], results: _frame.Results) -> tuple[str, str, str]:
    least = ""
    if row["job"] == "decode" and results["copy_gb_per_s"]:
        least = f"{(row['weights_gb'] + row['cache_gb']) / results['copy_gb_per_s'] * 1e3:.2f}"
    return f"{row['cache_gb']:.2f}", f"{row['peak_gb']:.1f}" if "peak_gb" in row else "", least


def _ratio(theirs: dict[str, Any], ours: dict[str, Any], name: str) -> dict[str, float]:
    """How many times theirs is ours: round by round where they took turns, else of the medians of all rounds."""
    if not ("mean_ms" in theirs and "mean_ms" in ours):
        return _frame.ratio(theirs["ms"], ours["ms"])
    return _frame.paired(theirs[name], ours[name])


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
        ratios = {path: _ratio(o, row, "mean_ms")["ratio"] for path, o in beside.items() if o}
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
            if most is not None and "peak_gb" in row:
                said.append(_frame.said(f"{at}: at most {most} GB", row["peak_gb"] <= most, f"{row['peak_gb']:.1f} GB"))
        elif row["job"] == "decode" and row["batch"] > 1:
            said.append(_frame.said(f"{at}, batch {row['batch']}: faster than 16 bit", ratio > 1, f"{ratio:.2f}x"))
        elif row["job"] == "prefill":
            said.append(
                _frame.said(f"{at}: within {PREFILL_GOAL}x of 16 bit", 1 / ratio <= PREFILL_GOAL, f"{1 / ratio:.2f}x")
            )
    return said
