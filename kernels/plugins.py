"""Finds plug-ins by module name: one file in a package is one plug-in, named like its file.

Listing names imports nothing, so that command lines stay instant.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any, TypeVar, cast

from swarm.kernels.errors import UnknownNameError

T = TypeVar("T")


@cache
def names(package: str) -> tuple[str, ...]:
    """Sorted plug-in names of a dotted package: its modules, but `base` and those that start with `_`."""
    path = importlib.import_module(package).__path__
    found = (module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
    return tuple(sorted(name for name in found if name != "base" and not name.startswith("_")))


def load(package: str, kind: type[T], name: str) -> type[T]:
    """The plug-in class of that name: the concrete subclass of `kind` that its module defines.

    Raises:
        UnknownNameError: no module of that name, with the list of known names.
    """
    return cast("type[T]", _load(package, cast("Any", kind), name))


@cache
def _load(package: str, kind: Any, name: str) -> Any:
    if name not in names(package):
        raise UnknownNameError(kind.__name__.lower(), name, ", ".join(names(package)))
    module = importlib.import_module(f"{package}.{name}")
    classes = _plugins_of(module, kind)
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {kind.__name__}, found {len(classes)}")
    return classes[0]


def _plugins_of(module: ModuleType, kind: Any) -> list[Any]:
    """The concrete subclasses of `kind` that a module defines."""
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, kind) and member.__module__ == module.__name__ and not inspect.isabstract(member)
    ]


def load_all(package: str, kind: type[T]) -> dict[str, type[T]]:
    """Every plug-in of the package by name."""
    return {name: load(package, kind, name) for name in names(package)}


def load_named(package: str, kind: type[T]) -> dict[str, type[T]]:
    """Every plug-in of a package whose modules may hold several, by the class's `name`, in the order of the names."""
    modules = [importlib.import_module(f"{package}.{name}") for name in names(package)]
    classes = [member for module in modules for member in _plugins_of(module, kind)]
    return {plugin.name: plugin for plugin in sorted(classes, key=lambda plugin: plugin.name)}
