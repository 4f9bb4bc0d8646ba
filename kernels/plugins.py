"""Finds plug-ins by name: one file in a package is one plug-in, and other distributions bring more by entry points.

An entry point of the group `kv_swarm.methods` belongs to `kernels.quantizers`, one of `kv_swarm.models` to
`experiments.models.bundled`; for every other package the group is `kv_swarm.` and the package's last name
(`kv_swarm.protocols`, `kv_swarm.commands`). Its name is the plug-in's, its
value a class, `acme.rounding:Rounding`, or a module that defines one, `acme.rounding`. Listing names imports no
plug-in, so that command lines stay instant.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from swarm.kernels.errors import SwarmError, UnknownNameError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
_GROUPS = {"quantizers": "methods", "bundled": "models"}


class PluginError(SwarmError):
    """A plug-in of another distribution that cannot be used."""


def names(package: str) -> tuple[str, ...]:
    """Sorted plug-in names of a dotted package: entry points, and its modules but `base` and those that start with `_`.

    Raises:
        PluginError: an entry point has the name of a built-in plug-in, or of another entry point.
    """
    return tuple(sorted((*_built_in(package), *_foreign(package))))


def load(package: str, kind: type[T], name: str) -> type[T]:
    """The plug-in class of that name: the concrete subclass of `kind` that its module defines.

    Raises:
        UnknownNameError: no plug-in of that name, with the list of known names.
        PluginError: another distribution's cannot be imported, or is no such class.
    """
    return cast("type[T]", _load(package, cast("Any", kind), name))


def load_all(package: str, kind: type[T]) -> dict[str, type[T]]:
    """Every plug-in of the package by name; one of another distribution that cannot be used is left out and logged."""
    return _usable(names(package), lambda name: load(package, kind, name))


def load_named(package: str, kind: type[T]) -> dict[str, type[T]]:
    """Every plug-in of a package whose modules may hold several, by the class's `name`, in the order of the names.

    Raises:
        PluginError: an entry point has the name of a built-in plug-in.
    """
    built_in: list[Any] = [c for name in _built_in(package) for c in _classes(module(package, name), kind)]
    for entry in _foreign(package).values():
        if entry.name in {plugin.name for plugin in built_in}:
            raise _taken(entry)
    foreign = _usable(tuple(_foreign(package)), lambda name: load(package, kind, name))
    return {plugin.name: plugin for plugin in sorted((*built_in, *foreign.values()), key=lambda plugin: plugin.name)}


def module(package: str, name: str, needs: Sequence[str] = ()) -> ModuleType:
    """The module of a plug-in, for packages whose plug-ins are modules.

    Args:
        package: dotted name of the package.
        name: the plug-in's name.
        needs: what the module has to define.

    Raises:
        PluginError: another distribution's cannot be imported, or lacks something.
    """
    entry = _foreign(package).get(name)
    if entry is None:
        return importlib.import_module(f"{package}.{name}")
    found = _imported(entry)
    missing = [need for need in needs if need not in vars(found)]
    if missing or not inspect.ismodule(found):
        raise _refused(entry, f"does not define {missing[0]}" if missing else "is not a module")
    return found


def modules(package: str, needs: Sequence[str] = ()) -> dict[str, ModuleType]:
    """The module of every plug-in by name; one of another distribution that cannot be used is left out and logged."""
    return _usable(names(package), lambda name: module(package, name, needs))


@cache
def _built_in(package: str) -> tuple[str, ...]:
    path = importlib.import_module(package).__path__
    found = (module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
    return tuple(sorted(name for name in found if name != "base" and not name.startswith("_")))


@cache
def _foreign(package: str) -> dict[str, EntryPoint]:
    """The entry points of a package by name, in the order of the names."""
    from importlib.metadata import entry_points  # 15 ms, and only whoever looks for a plug-in needs it

    last = package.rpartition(".")[2]
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=f"kv_swarm.{_GROUPS.get(last, last)}"), key=lambda e: e.name):
        if entry.name in found or entry.name in (*_built_in(package), "base"):
            raise _taken(entry)
        found[entry.name] = entry
    return found


@cache
def _load(package: str, kind: Any, name: str) -> Any:
    if name not in names(package):
        raise UnknownNameError(kind.__name__.lower(), name, ", ".join(names(package)))
    entry = _foreign(package).get(name)
    found = module(package, name) if entry is None else _imported(entry)
    classes = _classes(found, kind) if inspect.ismodule(found) else [found]
    if entry is None and len(classes) != 1:
        raise TypeError(f"{package}.{name} must define exactly one {kind.__name__}, found {len(classes)}")
    if entry is not None:
        if len(classes) != 1 or not _is_plugin(classes[0], kind):
            raise _refused(entry, f"is not one concrete {kind.__name__}")
        if getattr(classes[0], "name", name) != name:
            raise _refused(entry, f"calls itself {classes[0].name!r}")
    return classes[0]


def _classes(module: ModuleType, kind: Any) -> list[Any]:
    """The concrete subclasses of `kind` that a module defines."""
    found = (member for _, member in inspect.getmembers(module, inspect.isclass))
    return [member for member in found if member.__module__ == module.__name__ and _is_plugin(member, kind)]


def _is_plugin(member: Any, kind: Any) -> bool:
    return inspect.isclass(member) and issubclass(member, kind) and not inspect.isabstract(member)


def _usable(known: Sequence[str], get: Callable[[str], T]) -> dict[str, T]:
    """What `get` gives for each name, without what raises a PluginError."""
    found: dict[str, T] = {}
    for name in known:
        try:
            found[name] = get(name)
        except PluginError as error:
            _log(str(error))
    return found


@cache
def _log(line: str) -> None:
    """Say it once."""
    logging.getLogger(__name__).warning(line)


def _imported(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # the code of others may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _refused(entry, f"cannot be imported ({reason})") from error


def _refused(entry: EntryPoint, why: str) -> PluginError:
    return PluginError(
        f"{entry.group} {entry.name!r} of {_origin(entry)}, {entry.value}, {why}.",
        "Update or uninstall that distribution.",
    )


def _taken(entry: EntryPoint) -> PluginError:
    return _refused(entry, "has a name that is taken")


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
