"""What all benchmarks share: options, the record of a run, ratios with their spread, and a page made from a record."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from swarm.kernels.errors import SwarmError, UsageError
from swarm.orchestrator import machine

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmarks"
PACKAGES = ("kv-swarm", "mlx", "mlx-lm", "numpy", "optuna", "ray", "scipy", "sqlalchemy")

Results = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: `measure` gives its results (in the short form when asked), `page` turns a record into Markdown.

    `packages` are distributions besides ours whose versions count. `join` makes one record of several for `--page`;
    left out, they must be parts of one run.
    """

    name: str
    measure: Callable[[bool, Tell], Results]
    page: Callable[[Results], str]
    packages: tuple[str, ...] = ()
    join: Callable[[Sequence[Results]], Results] | None = None

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """The command line of a benchmark; 2 for wrong usage, 1 when it could not run."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}")
        parser.add_argument("--short", action="store_true", help="the smallest sizes: whether it runs, not how fast")
        parser.add_argument("--out", type=Path, metavar="FILE", help="write the record as JSON")
        parser.add_argument("--docs", action="store_true", help=f"write docs/benchmarks/{self.name}.json and .md")
        parser.add_argument(
            "--page",
            type=Path,
            nargs="+",
            metavar="FILE",
            help="run nothing: write record and page of runs on one machine",
        )
        parser.add_argument("--name", help="what to call record and page in docs/benchmarks, where there are others")
        options = parser.parse_args(arguments)
        try:
            return self._run(options)
        except SwarmError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code

    def _run(self, options: argparse.Namespace) -> int:
        if options.page is not None:
            self._document((self.join or joined)([read(path, self.name) for path in options.page]), options.name)
            return 0
        if options.docs and options.short:
            raise UsageError("--short shows only that a benchmark runs.", "Leave --docs or --short out.")
        load = os.getloadavg()[0]
        results = self.measure(options.short, lambda line: print(line, file=sys.stderr, flush=True))
        record = about(self, short=options.short, load=load) | {"results": results}
        if options.out:
            write_json(options.out, record)
        if options.docs:
            self._document(record, options.name)
        print(self.page(record))
        return 0

    def _document(self, record: Results, name: str | None) -> None:
        record = record | ({"name": name} if name else {})
        write_json(DOCS / f"{recorded_as(record)}.json", record)
        write_page(self, record)


def about(benchmark: Benchmark, *, short: bool, load: float) -> Results:
    """Where, when and with what a benchmark ran; `load` is the machine's load average before it began."""
    from swarm.experiments import environment

    versions = {}
    for package in (*PACKAGES, *benchmark.packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "benchmark": benchmark.name,
        "command": f"swarm bench {benchmark.name}{' --short' * short}",
        "short": short,
        "date": datetime.now(UTC).date().isoformat(),
        "device": environment.device_name(),
        "cores": machine.cores(),
        "load_before": round(load, 2),
        "blas": environment.blas_name(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "git_revision": environment.git_revision(),
    }


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times theirs is ours: ratio of the medians, and its extremes over all pairs of rounds."""
    every = [a / b for a in theirs for b in ours]
    return {"ratio": statistics.median(theirs) / statistics.median(ours), "low": min(every), "high": max(every)}


def paired(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times theirs is ours in rounds that took turns: median and extremes. The last may lack its pair."""
    every = [a / b for a, b in zip(theirs, ours, strict=False)]
    return {"ratio": statistics.median(every), "low": min(every), "high": max(every)}


def read(path: Path, name: str) -> Results:
    """A record that a run wrote.

    Raises:
        UsageError: the file is missing, or is no record of this benchmark.
    """
    try:
        record: Results = json.loads(path.read_text())
        known = record["benchmark"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no record of a benchmark: {error}.", "Write one with --out.") from error
    if known != name:
        raise UsageError(f"{path} is a record of {known!r}.", f"Give one of {name!r}.")
    return record


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one in each line, without a last line that was cut off; none without a file."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def recorded_as(record: Results) -> str:
    """What a record in docs/benchmarks is called: of benchmarks that run on a GPU too, those of a CPU say so."""
    return record.get("name") or record["benchmark"] + "-cpu" * (record["results"].get("device") == "cpu")


def joined(records: Sequence[Results]) -> Results:
    """One record of runs that measured parts of a benchmark: their lists one after the other, else what the first says.

    Raises:
        UsageError: they ran on different machines, revisions or versions.
    """
    first, *others = records
    for other in others:
        for name in ("device", "git_revision", "versions", "short"):
            if first[name] != other[name]:
                raise UsageError(
                    f"The records differ in {name}: {first[name]} and {other[name]}.", "Join parts of one run."
                )
    results = dict(first["results"])
    for other in others:
        for name, found in other["results"].items():
            results[name] = results[name] + found if isinstance(found, list) else results.get(name, found)
    return first | {"results": results}


def write_json(path: Path, record: Results) -> None:
    """Write a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def write_page(benchmark: Benchmark, record: Results) -> None:
    """Write the page of a benchmark from a record."""
    path = DOCS / f"{recorded_as(record)}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(benchmark.page(record))


def heading(record: Results, title: str) -> str:
    """Title of a page, and how its numbers came about."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    busy = f"; load average {record['load_before']} before it began" if record["load_before"] > 0.5 else ""
    return (
        f"# {title}\n\n"
        f"Made from `docs/benchmarks/{recorded_as(record)}.json`, which `{record['command']}` wrote on "
        f"{record['date']} at revision {record['git_revision'][:7] or 'unknown'}: {record['device']}, "
        f"{record['cores']} cores, {record['blas']}, Python {record['python']}{busy}.\n{versions}.\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def times(found: dict[str, float]) -> str:
    """A ratio with its spread, e.g. `5.2x (4.8 to 5.5)`."""
    return f"{found['ratio']:.3g}x ({found['low']:.3g} to {found['high']:.3g})"


def said(goal: str, met: bool, value: str) -> str:
    """A list's line on how a goal fared, e.g. - 330 trials: at most 15 ms: met (10.3 ms)."""
    return f"- {goal}: {'met' if met else 'not met'} ({value})."
