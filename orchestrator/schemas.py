"""JSON schemas of what commands print, from the types that they are built of. Knows commands by name only."""

from __future__ import annotations

from typing import Any

from swarm.kernels import plugins

PACKAGE = "swarm.orchestrator.commands"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def commands() -> list[str]:
    """The commands that say what their --json output is: those with a function `output`."""
    return [name for name, module in plugins.modules(PACKAGE).items() if "output" in vars(module)]


def schema(name: str) -> dict[str, Any]:
    """The schema of a command's output. Objects have the keys that it names and no others."""
    from pydantic import TypeAdapter

    printed: Any = plugins.module(PACKAGE, name).output()
    found = TypeAdapter(printed).json_schema(mode="serialization")
    _close(found)
    return {"$schema": DIALECT, "title": f"swarm {name} --json", **found}


def _close(part: Any) -> None:
    """Refuse unknown keys wherever keys are named."""
    if isinstance(part, dict):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
        for value in part.values():
            _close(value)
    elif isinstance(part, list):
        for value in part:
            _close(value)
