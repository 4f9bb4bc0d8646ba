"""`swarm serve`: a model with a packed cache behind an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.orchestrator.console import note
from swarm.orchestrator.options import KVMethod, RecipeFile

PANEL = "Use"


def command(
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Bundled name, Hugging Face id or folder.  [default: the recipe's]")
    ] = None,
    recipe: RecipeFile = None,
    kv: KVMethod = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    compare: Annotated[bool, typer.Option(help="Time decoding beside a 16-bit cache before serving.")] = True,
) -> None:
    """Serve a model over the OpenAI protocol with a recipe's cache, by mlx_lm's own server.

    Several clients are answered at once. Only this machine can reach it unless --host says otherwise. There is no
    access control.

    Example: `swarm serve --recipe best.json`, then `swarm probe --endpoint http://localhost:8080`
    """
    from swarm.experiments.deploy import serving
    from swarm.experiments.models import registry
    from swarm.orchestrator.foreground import StopSignals
    from swarm.orchestrator.recipes import check, choose

    name, chosen = choose(model, recipe, kv)
    loaded = registry.load(name)
    check(chosen, loaded)
    try:
        with StopSignals():
            serving.serve(
                loaded,
                chosen,
                host,
                port,
                lambda url: note(f"Serving {name} with {chosen.kv.label} at {url}; Ctrl-C ends."),
                note,
                compare=compare,
            )
    except KeyboardInterrupt:
        note("Stopped.")
