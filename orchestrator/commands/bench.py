"""`swarm bench`: the benchmarks of a source checkout, each in a process of its own.

Benchmarks are not part of the installed package: they come with peers, data and pages that only a checkout has.
"""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import Json

PANEL = "Methods and models"
ROOT = Path(__file__).resolve().parents[2]
FOLDER = "benchmarks"


class NoCheckoutError(UsageError):
    """There are no benchmarks beside this installation."""


def command(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; without it, all are listed.")] = None,
    short: Annotated[bool, typer.Option("--short", help="The smallest sizes: whether it runs, not how fast.")] = False,
    json: Json = False,
) -> None:
    """Run a benchmark against its peers, from a checkout of the repository.

    Example: `swarm bench overhead --short`
    """
    if name is None:
        rows = [{"name": found, "summary": summary(found)} for found in benchmark_names()]
        listing(rows, [Column("name", "benchmark"), Column("summary", "what it compares")], as_json=json)
        return
    code = run(name, short=short, as_json=json)
    if code:
        raise typer.Exit(code)


def output() -> object:
    """What `--json` prints: the benchmarks by name, or the record of one, each with its own keys."""
    return list[dict[str, str]] | dict[str, Any]


def benchmark_names() -> tuple[str, ...]:
    """Every benchmark: the modules of the folder whose names do not begin with `_`.

    Raises:
        NoCheckoutError: this is an installed copy.
    """
    folder = ROOT / FOLDER
    if not (ROOT / "pyproject.toml").is_file() or not folder.is_dir():
        raise NoCheckoutError(
            f"benchmarks are not part of an installed copy ({ROOT}).",
            "Run `uv run swarm bench` in a checkout of the repository.",
        )
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")))


def summary(name: str) -> str:
    """The first line of what a benchmark says of itself; nothing is imported."""
    text = ast.get_docstring(ast.parse((ROOT / FOLDER / f"{name}.py").read_text())) or ""
    return text.partition("\n")[0].rstrip(".")


def run(name: str, *, short: bool, as_json: bool) -> int:
    """Run a benchmark as `python -m benchmarks.NAME` would; its exit status.

    Args:
        name: which one.
        short: with the smallest sizes.
        as_json: its record as JSON on standard output, and all else on standard error.

    Raises:
        UnknownNameError: with the benchmarks that there are.
    """
    if name not in benchmark_names():
        raise UnknownNameError("benchmark", name, ", ".join(benchmark_names()))
    line = [sys.executable, "-m", f"{FOLDER}.{name}", *["--short"] * short]
    if not as_json:
        return subprocess.run(line, cwd=ROOT, check=False).returncode
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        done = subprocess.run([*line, "--out", str(record)], cwd=ROOT, stdout=sys.stderr, check=False)
        if record.is_file():
            sys.stdout.write(record.read_text())
    return done.returncode
