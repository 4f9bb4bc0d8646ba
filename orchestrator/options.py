"""Options that several commands share, declared once."""

from __future__ import annotations

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
