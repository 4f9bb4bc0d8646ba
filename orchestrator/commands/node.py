"""`swarm node`: this machine as a node of a Ray cluster, with what it can compute on advertised."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.options import DeviceName

PANEL = "Campaigns"


def command(
    address: Annotated[
        str | None,
        typer.Argument(metavar="[HOST:PORT]", help="The head to join.  [default: be the head]", show_envvar=False),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where a head listens.")] = 6379,
    device: DeviceName = None,
) -> None:
    """Put this machine into a Ray cluster until Ctrl-C; campaigns use it by `--ray-address`.

    Examples: `swarm node` on one machine, `swarm node HOST:6379` on the others,
    then `swarm launch --ray-address HOST:6379`
    """
    import os

    from swarm.orchestrator import joining

    line = joining.command(address, port, joining.check(device))
    os.execve(line[0], line, joining.environment())  # noqa: S606 - our own interpreter
