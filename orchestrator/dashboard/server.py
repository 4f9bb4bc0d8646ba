"""Serves a site on a socket until it is told to stop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

BACKLOG = 128


class ServerError(SwarmError):
    """The dashboard cannot listen where it was asked to."""


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address; port 0 takes a free one.

    Raises:
        ServerError: the address is taken, or not of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ServerError(f"{host} is no address ({error.strerror}).", "Give another --host.") from error
    try:
        return socket.create_server(
            address[:2],
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise ServerError(
            f"nothing can listen on {host} port {port} ({error.strerror}).", "Give another --port, or 0 for a free one."
        ) from error


def make(app: ASGIApp) -> uvicorn.Server:
    """A server that runs on a socket that listens: `make(app).run(sockets=[...])`, until a signal ends it."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=64,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
