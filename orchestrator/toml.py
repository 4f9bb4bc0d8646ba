"""Reads swarm.toml of the working directory: top-level keys are settings, a table is the options of a command."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from swarm.kernels import plugins
from swarm.kernels.errors import UsageError

FILE = "swarm.toml"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}.", "Correct the file or remove it.") from error


def _document() -> dict[str, Any]:
    return _read(Path.cwd() / FILE)


def table(command: str) -> dict[str, Any]:
    """The options of one command."""
    found = _document().get(command, {})
    return found if isinstance(found, dict) else {}


def settings() -> dict[str, Any]:
    """The top-level keys, without the tables of commands."""
    commands = set(plugins.names("swarm.orchestrator.commands"))
    return {key: value for key, value in _document().items() if not (key in commands and isinstance(value, dict))}
