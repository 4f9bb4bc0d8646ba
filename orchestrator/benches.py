"""Finds the benchmark scripts of a source checkout and runs them. Knows their options, not what they measure.

Benchmarks are not part of the installed package: they come with peers, data and pages that only a checkout has.
"""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

from swarm.kernels.errors import UnknownNameError, UsageError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "benchmarks"


class NoCheckoutError(UsageError):
    """There are no benchmarks beside this installation."""


def names() -> tuple[str, ...]:
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
    if name not in names():
        raise UnknownNameError("benchmark", name, ", ".join(names()))
    line = [sys.executable, "-m", f"{FOLDER}.{name}", *["--short"] * short]
    if not as_json:
        return subprocess.run(line, cwd=ROOT, check=False).returncode
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        done = subprocess.run([*line, "--out", str(record)], cwd=ROOT, stdout=sys.stderr, check=False)
        if record.is_file():
            sys.stdout.write(record.read_text())
    return done.returncode
