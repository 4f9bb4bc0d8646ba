"""Texts that are on every machine, so that no claim rests on one kind of text: prose, code and interactive sessions."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

LEFT_OUT = frozenset({"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings", "pydoc_data", "ensurepip"})
"""Folders of the standard library that are tests, tables, or missing in some installations."""
PROMPT = ">>> "


def prose() -> str:
    """The topic help (465 KB of English)."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def code() -> str:
    """The standard library's modules in the order of their paths."""
    return "\n\n".join(_modules(_stdlib()))


def dialogue() -> str:
    """What somebody types at Python's prompt and what it answers: docstrings with sessions.

    Those of the standard library alone are too short for windows of 8K tokens, so NumPy's follow.
    """
    numpy = find_spec("numpy")
    roots = [_stdlib(), *map(Path, (numpy and numpy.submodule_search_locations) or ())]
    sources = chain.from_iterable(map(_modules, roots))
    return "\n\n".join(text for source in sources if PROMPT in source for text in _sessions(source))


BUNDLED: Mapping[str, Callable[[], str]] = {"prose": prose, "code": code, "dialogue": dialogue}
"""The texts by the names that `--corpus` takes."""
TITLES = {
    "prose": "CPython's topic help",
    "code": "CPython's standard library",
    "dialogue": "CPython's and NumPy's sessions",
}
"""What they are called in errors."""


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _modules(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts[:-1]):
            yield path.read_text(encoding="utf-8", errors="replace")


def _sessions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None and PROMPT in text:
                yield text
