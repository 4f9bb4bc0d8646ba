"""`swarm schema`: the JSON schema of what commands print with --json."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.console import emit_json

PANEL = "Use"


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="Only of this command.", show_envvar=False)
    ] = None,
) -> None:
    """Print the JSON schema (2020-12) of a command's --json output, or of all by command.

    Examples: `swarm schema trials`, `swarm schema > schemas.json`
    """
    from swarm.kernels.errors import UnknownNameError
    from swarm.orchestrator import schemas

    if name is None:
        emit_json({each: schemas.schema(each) for each in schemas.commands()})
        return
    if name not in schemas.commands():
        raise UnknownNameError("command with --json", name, ", ".join(schemas.commands()))
    emit_json(schemas.schema(name))
