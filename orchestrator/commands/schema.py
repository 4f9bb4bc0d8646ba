"""`swarm schema`: the JSON schema of what commands print with --json, from the types that it is built of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from swarm.kernels import plugins
from swarm.kernels.errors import UnknownNameError
from swarm.orchestrator.console import emit_json

PANEL = "Use"
PACKAGE = "swarm.orchestrator.commands"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="Only of this command.", show_envvar=False)
    ] = None,
) -> None:
    """Print the JSON schema (2020-12) of a command's --json output, or of all by command.

    Examples: `swarm schema trials`, `swarm schema > schemas.json`
    """
    if name is None:
        emit_json({each: schema(each) for each in printing_json()})
        return
    if name not in printing_json():
        raise UnknownNameError("command with --json", name, ", ".join(printing_json()))
    emit_json(schema(name))


def printing_json() -> list[str]:
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
