"""The page of the methods' benchmark: one table at comparable bits/value, errors in detail, what fitting costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _frame

from swarm.kernels.errors import UsageError

BEGIN, END = "<!-- begin: measured -->", "<!-- end: measured -->"
CLASSES = ((0, 2.0, "up to 2"), (2.0, 2.7, "2 to 2.7"), (2.7, 3.7, "2.7 to 3.7"), (3.7, 4.7, "3.7 to 4.7"),
           (4.7, 6.3, "4.7 to 6.3"), (6.3, 9.0, "6.3 to 9"), (9.0, 17.0, "16 bit"))  # fmt: skip
"""Bits/value that are comparable: above the first number, up to the second."""
DETAILS = ("key_rel_mse", "value_rel_mse", "output_rel_error", "g", "same_top1")


def page(record: _frame.Results) -> str:
    """Everything measured."""
    parts = [_frame.heading(record, "Every method on the bundled models"), overview(record["results"])]
    for name, model in record["results"]["models"].items():
        parts += [f"## {name}\n", details(model)]
    return "\n".join(parts)


def into_guide(record: _frame.Results, path: Path) -> None:
    """Replace what stands between the marks of the guide.

    Raises:
        UsageError: the guide has no marks.
    """
    before, found, rest = path.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise UsageError(f"{path} has no place for the table.", f"Put {BEGIN} and {END} into it.")
    busy = f" (load average {record['load_before']:g} before it began)" if record["load_before"] > 0.5 else ""
    said = (
        f"`python -m benchmarks.methods --docs` on {record['date']} at revision {record['git_revision'][:7]}: "
        f"{record['device']}, {record['blas']}{busy}, mlx {record['versions']['mlx']}. Keys, values and G by row: "
        f"[benchmarks/methods.md](benchmarks/methods.md).\n"
    )
    path.write_text(f"{before}{BEGIN}\n{said}\n{overview(record['results'])}\n{END}{after}")


def overview(results: _frame.Results) -> str:
    """One row per configuration, in classes of comparable bits/value; models side by side."""
    models = results["models"]
    merged: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        for row in model["rows"]:
            merged.setdefault(row["label"], {})[name] = row
    columns = ["cache", "bits/value", *(f"{name}: {what}" for name in models for what in ("output error", "KLD"))]
    lines = []
    first = next(iter(models))
    for low, high, title in CLASSES:
        inside = [
            (label, row)
            for label, row in merged.items()
            if low < min(r["bits_per_value"] for r in row.values()) <= high
        ]
        if inside:
            lines.append((f"**{title}**", *[""] * (len(columns) - 1)))
        lines += [
            (label, _bits(row), *_cells(row, models))
            for label, row in sorted(inside, key=lambda pair: _kld(pair[1], first))
        ]
    scored, sizes = results["scored"], " / ".join(dict.fromkeys(str(model["head_dim"]) for model in models.values()))
    windows = next(iter(models.values()))["rows"][0]["metrics"]["kld"]["n"]
    said = (
        f"Means over {windows} windows of text with standard errors; output error is relative, of the attention output "
        f"over all layers; KLD in nats, 16-bit prefill and quantized decode of {scored} tokens after "
        f"{results['context'] - scored}. Bits/value are the limit for long contexts, several numbers where head sizes "
        f"({sizes}) matter. `- bias`: the key bias subtracted. Best first by {first}.\n"
    )
    return said + "\n" + _frame.table(columns, lines) + _fitting(models)


def details(model: dict[str, Any]) -> str:
    """Errors of keys and values, G and the likeliest token."""
    columns = ["cache", "bits/value", "keys rel. MSE", "values rel. MSE", "output error", "G", "same top-1", "KLD"]
    rows = [
        (
            row["label"],
            f"{row['bits_per_value']:.4g}",
            *(_number(row["metrics"][name]["value"]) for name in DETAILS),
            _with_error(row["metrics"]["kld"]),
        )
        for row in sorted(model["rows"], key=lambda row: (row["bits_per_value"], row["metrics"]["kld"]["value"]))
    ]
    return _frame.table(columns, rows)


def _fitting(models: dict[str, Any]) -> str:
    if not all(model["fitting"] for model in models.values()):
        return ""
    columns = ["fitting learned scaling, CPU seconds", *models]
    rows = [
        (title, *(f"{model['fitting'][name]:.1f}" for model in models.values()))
        for title, name in (
            ("reading the calibration text, once per model", "calibration_cpu_seconds"),
            ("fitting keys and values of one format", "fitting_cpu_seconds"),
        )
    ]
    return "\n" + _frame.table(columns, rows)


def _kld(row: dict[str, Any], first: str) -> float:
    chosen = row.get(first) or next(iter(row.values()))
    return float(chosen["metrics"]["kld"]["value"])


def _bits(row: dict[str, Any]) -> str:
    return " / ".join(dict.fromkeys(f"{entry['bits_per_value']:.4g}" for entry in row.values()))


def _cells(row: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    for name in models:
        if name in row:
            yield _number(row[name]["metrics"]["output_rel_error"]["value"])
            yield _with_error(row[name]["metrics"]["kld"])
        else:
            yield from ("", "")


def _with_error(found: dict[str, float]) -> str:
    return f"{_number(found['value'])} ± {_number(found['stderr'])}"


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"
