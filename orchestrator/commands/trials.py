"""`swarm trials`: what was run and what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import CampaignName, Json, StoreUrl
from swarm.orchestrator.printing import list_trials
from swarm.orchestrator.views.choices import TRIAL_STATES, check_choice
from swarm.orchestrator.views.trials import TrialRow

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord
    from swarm.orchestrator.views.source import Source

PANEL = "Results"


def command(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only this protocol: quality, attention, depth.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only this state: {', '.join(TRIAL_STATES)}.")] = None,
    best: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The N with the smallest KLD; of an engine, the quickest.")
    ] = None,
    max_bits: Annotated[float | None, typer.Option(metavar="B", help="At most so many bits per value.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Only the Pareto front of KLD and bits per value.")] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Those whose kernels were timed, with microseconds; the fastest first.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    campaign: CampaignName = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the trials of a campaign.

    With `--speed`, KLD and bits stand beside the measured microseconds of a decode step, and which configurations no
    other beats in all three.

    Examples: `swarm trials --best 10 --max-bits 4.6 --model gemma3-270m`, `swarm trials --pareto`,
    `swarm trials --speed`
    """
    from swarm.experiments.protocols.base import PACKAGE as PROTOCOLS
    from swarm.kernels import plugins
    from swarm.kernels.errors import UnknownNameError
    from swarm.orchestrator.views.source import open_campaign

    check_choice("state", state, TRIAL_STATES)
    check_choice("protocol", protocol, plugins.names(PROTOCOLS))
    wanted: Any = state
    with open_campaign(store, campaign) as source:
        found = source.campaign
        if model is not None and model not in found.settings.get("models", [model]):
            raise UnknownNameError("model", model, f"{', '.join(found.settings['models'])} in campaign {found.name}")
        if speed:
            _list_speed(source, model, max_bits, best or limit, as_json=json)
            return
        if found.settings.get("engine") and (best is not None or pareto):
            records = _of_engine(source, model, only_front=pareto)
            list_trials(records[: best or limit], as_json=json, empty="No such trials.")
            return
        ranking = "kld" if best is not None else "bits_per_value" if pareto else None
        records = source.store.trials.list(
            found.id,
            model=model,
            # Comparable is what was measured in one way: without a choice, rank what deployment sees.
            protocol=protocol or ("quality" if ranking else None),
            state=wanted,
            ids=source.front if pareto else None,
            best=ranking,
            arrays=False,
        )
    if max_bits is not None:
        measured = ((record, record.metrics.get("bits_per_value")) for record in records)
        records = [record for record, bits in measured if bits is not None and bits.value <= max_bits]
    list_trials(records[: best or limit], as_json=json, empty="No such trials.")


def _list_speed(source: Source, model: str | None, max_bits: float | None, limit: int | None, *, as_json: bool) -> None:
    from swarm.orchestrator.views.speed import speed_rows

    rows = [row for row in speed_rows(source) if model in (None, row["model"])]
    rows = [row for row in rows if max_bits is None or row["bits_per_value"] <= max_bits][:limit]
    columns = (
        Column("trial_id", "trial", right=True),
        Column("model"),
        Column("configuration"),
        Column("kld", "KLD", digits=3),
        Column("bits_per_value", "bits", digits=3),
        Column("context", "tokens", right=True),
        Column("decode_us", "us", digits=3),
        Column("decode_us_16", "us in 16 bit", digits=3),
        Column("front", show=lambda front: "front" if front else ""),
    )
    listing(rows, columns, as_json=as_json, empty="No kernel was timed: that takes attention trials on a GPU.")


def _of_engine(source: Source, model: str | None, *, only_front: bool) -> list[TrialRecord]:
    """A trial for all flags within the limit on divergence, the best first; or those that nothing beats."""
    from swarm.agents.analysis import engine_speed

    found = source.store.trials.list(source.campaign.id, model=model, state="complete", arrays=False)
    ranked = engine_speed.front if only_front else engine_speed.best
    models = dict.fromkeys(record.spec.model for record in found)
    return [record for name in models for record in ranked((r for r in found if r.spec.model == name), source.settings)]


def output() -> object:
    """What `--json` prints: trials, or with `--speed` configurations with their times."""
    from swarm.orchestrator.views.speed import SpeedRow

    return list[TrialRow] | list[SpeedRow]
