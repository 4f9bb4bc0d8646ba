"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.", show_envvar=False)]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Database: a SQLite file or postgresql+psycopg://...  [default: swarm.db]",
        show_envvar=False,
    ),
]
CampaignName = Annotated[
    str | None,
    typer.Option("--campaign", metavar="NAME", help="Which campaign.  [default: the latest]", show_envvar=False),
]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes.  [default: one per core, up to 8 per GPU, as memory allows]")
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="An existing Ray cluster.  [default: this machine]")
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda|metal",
        help="What trials run on, where nodes differ; several on a cluster of both: cuda,cpu.  [default: as here]",
    ),
]
TrialTimeout = Annotated[str | None, typer.Option(metavar="TIME", help="Per trial.  [default: 5m]")]
Llm = Annotated[
    str | None,
    typer.Option(metavar="WHO", help="Who thinks: none, openai, a URL, or local[:MODEL].  [default: none]"),
]
LlmModel = Annotated[str | None, typer.Option(metavar="MODEL", help="Model name at that endpoint.")]
Agenda = Annotated[str | None, typer.Option(metavar="NAME", help="Hypotheses to test first.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", metavar="FILE", help="What the cache stores, from `swarm recipe TRIAL`.")
]
KVMethod = Annotated[
    str | None, typer.Option("--kv", metavar="METHOD", help="The same as a method: affine4/g32, or q8_0,q4_0.")
]
