"""What benchmarks and tests share and only a checkout has: servers to start, simulated laboratories."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from benchmarks import _frame


def load(name: str) -> ModuleType:
    """A module of the folder of tests by its path there, e.g. `agents/conftest`; tests are no package."""
    folder = _frame.ROOT / "tests"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # modules there import each other
    alias = "benchmarks._of_tests_" + name.replace("/", "_")
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, folder / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(name)
        sys.modules[alias] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[alias])
    return sys.modules[alias]
