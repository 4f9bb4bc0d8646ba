"""`swarm dashboard`: the store as pages in a browser, live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.orchestrator.options import StoreUrl

if TYPE_CHECKING:
    from swarm.memory.store import Store

PANEL = "Results"


def command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
    store: StoreUrl = None,
) -> None:
    """Show campaigns, trials, findings and summaries in a browser, and review what the agents wrote.

    The address that it prints holds a token; without it nobody gets anything. Pages of running campaigns keep
    themselves up to date. The store is only read, reviews aside.

    Examples: `swarm dashboard`, `swarm dashboard --store night.db --port 0 --no-browser`
    """
    import getpass

    from swarm.memory.store import Store
    from swarm.orchestrator.console import note, say
    from swarm.orchestrator.dashboard import server
    from swarm.orchestrator.dashboard.guard import LOOPBACK
    from swarm.orchestrator.dashboard.site import guarded
    from swarm.orchestrator.foreground import StopSignals
    from swarm.orchestrator.settings import store_url
    from swarm.orchestrator.views.source import open_store

    with open_store(store) as opened, server.listen(host, port) as listening:
        taken = int(listening.getsockname()[1])

        def writable() -> Store:
            return Store.open(store_url(store))

        guard = guarded(opened, writable, getpass.getuser(), host, taken)
        shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104
        url = f"http://{shown}:{taken}/?token={guard.token}"
        if host not in LOOPBACK:
            note("Others on the network can reach this port. The token protects it, but nothing is encrypted.")
        say(url)
        note(f"Showing {opened.place}; Ctrl-C ends.")
        if browser:
            _open(url)
        try:
            with StopSignals():
                server.make(guard).run(sockets=[listening])
        except KeyboardInterrupt:
            note("Stopped.")


def _open(url: str) -> None:
    """Open a graphical browser, where there is one: a text browser would take over this terminal."""
    import os
    import sys
    import webbrowser

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    webbrowser.open(url)
