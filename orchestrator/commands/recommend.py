"""`swarm recommend`: one configuration for a model within a limit, and what is not known about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.orchestrator.console import Column, emit_json, listing, note, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.agents.analysis.recommendation import Recommendation

PANEL = "Use"
TOLD = ("trial", "retry", "phase")
"""Kinds of event that are told while trials run."""


def command(
    model: Annotated[str, typer.Option(metavar="M", help="A model of the store, a bundled name, an id or a folder.")],
    bits: Annotated[float | None, typer.Option(metavar="B", help="Most bits per value.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="GB", help="Memory for weights and cache, with --context.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens that the cache shall hold, such as 32K.")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(metavar="X", help="Most KLD in nats: choose the cheapest that stays below it.")
    ] = None,
    run: Annotated[int, typer.Option(metavar="N", min=0, help="First run the N trials that would decide most.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the recipe there.")] = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Say which configuration to use, what it is expected to lose, and what has not been tested.

    Reads all campaigns of the store. A model that was not measured is answered from what carries over from others.

    Examples: `swarm recommend --model gemma3-270m --bits 4.5`,
    `swarm recommend --model smollm2-135m --memory 1 --context 32K --out best.json`
    """
    from swarm.experiments.sizing.units import parse_gigabytes, parse_tokens
    from swarm.orchestrator import foreground, launching, recommending
    from swarm.orchestrator.settings import store_url

    url = store_url(store)
    ask: dict[str, float | int | None] = {
        "bits": bits,
        "memory": None if memory is None else parse_gigabytes(memory),
        "context": None if context is None else parse_tokens(context),
        "tolerance": tolerance,
    }
    if run:
        settings = recommending.deciding(url, model, run, ask)
        with (
            foreground.StopSignals() as signals,
            launching.start(settings, signals.arm, foreground.prepare) as campaign,
        ):
            signals.defer(campaign.stop)
            for event in campaign:
                if event.kind in TOLD:
                    note(str(event))
        if signals.exit_code:
            raise typer.Exit(signals.exit_code)
    found = recommending.answer(url, model, ask)
    if out is not None:
        out.write_text(recommending.recipe(url, found), encoding="utf-8")
    if json:
        emit_json(found.model_dump(mode="json"))
    else:
        _show(found, out)


def output() -> object:
    """What `--json` prints."""
    from swarm.agents.analysis.recommendation import Recommendation

    return Recommendation


def _show(found: Recommendation, out: Path | None) -> None:
    from swarm.orchestrator.views.recommendation import cost_text, origin_text, range_text, rival_text

    say(f"{found.model}: {found.choice.configuration}", style="bold")
    say(f"  {found.choice.words}")
    say(f"  costs {cost_text(found.choice)}" + (f" ({found.limits.note})" if found.limits.note else ""))
    say(f"  expected KLD {range_text(found.choice.loss)} nats, 90% interval")
    say(f"  {origin_text(found)}")
    for one in (*found.measures, *found.times):
        say(f"  {one.name}: {range_text(one.value)} {one.unit}".rstrip())
    if found.findings:
        say(f"  confirmed findings: {', '.join(map(str, found.findings))}")
    if found.runner_up is not None:
        say(f"Runner-up: {found.runner_up.configuration}: {rival_text(found)}")
        say(f"  {found.runner_up.words}")
    if found.untested:
        say(f"Not tested: {'; '.join(found.untested)}.")
    if found.decisive:
        say(f"Trials that would decide most (--run {len(found.decisive)} runs them):")
        rows = [one.model_dump(mode="json") | {"replicate": one.spec.replicate} for one in found.decisive]
        listing(rows, [Column("configuration", "configuration"), Column("replicate", "windows"), Column("why", "why")])
    if out is not None:
        say(f"The recipe is in {out}: `swarm generate --recipe {out}`")
