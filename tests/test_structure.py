"""The shape of the packages: no class name twice, and no circle of imports, hidden ones included."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import networkx

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "experiments", "memory", "agents", "orchestrator")
MAX_CYCLES_TOLD = 20


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the product by its dotted name, parsed."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert paths
    names = (".".join(("swarm", *path.relative_to(ROOT).with_suffix("").parts)) for path in paths)
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in zip(names, paths, strict=True)
    }


def test_no_class_name_is_used_twice():
    places: dict[str, list[str]] = defaultdict(list)
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    twice = [f"class {name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(found) > 1]
    assert not twice, "\n" + "\n".join(twice)


def test_no_imports_run_in_a_circle():
    trees = modules()
    graph = networkx.DiGraph((name, target) for name, tree in trees.items() for target in imported(tree, trees))
    circles = [" -> ".join((*circle, circle[0])) for circle in islice(networkx.simple_cycles(graph), MAX_CYCLES_TOLD)]
    assert not circles, "\n" + "\n".join(sorted(circles))


def imported(node: ast.AST, known: dict[str, ast.Module]) -> Iterator[str]:
    """The modules of the product that a tree imports when it runs, also those that its functions import.

    An import under `if TYPE_CHECKING:` does not run.
    """
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: list[ast.AST] = [*node.orelse]
    else:
        children = [*ast.iter_child_nodes(node)]
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        yield from (name for name in inner.values() if name in known)
        if node.module in known and any(name not in known for name in inner.values()):
            yield node.module
    for child in children:
        yield from imported(child, known)
