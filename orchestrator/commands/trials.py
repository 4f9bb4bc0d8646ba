"""`swarm trials`: what was run and what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, listing, number
from swarm.orchestrator.options import CampaignName, Json, StoreUrl

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord, TrialRecord
    from swarm.memory.store import Store

PANEL = "Results"
STATES = ("waiting", "running", "complete", "failed", "pruned", "quarantined")


def command(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Only this protocol: quality, attention, depth.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only this state: {', '.join(STATES)}.")] = None,
    best: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N with the smallest KLD.")] = None,
    max_bits: Annotated[float | None, typer.Option(metavar="B", help="At most so many bits per value.")] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Only the Pareto front of KLD and bits per value.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    campaign: CampaignName = None,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """List the trials of a campaign.

    Examples: `swarm trials --best 10 --max-bits 4.6 --model gemma3-270m`, `swarm trials --pareto`
    """
    from swarm.experiments.protocols.base import PACKAGE as PROTOCOLS
    from swarm.kernels import plugins
    from swarm.kernels.errors import UnknownNameError
    from swarm.orchestrator.reading import open_campaign

    if state is not None and state not in STATES:
        raise UnknownNameError("state", state, ", ".join(STATES))
    if protocol is not None and protocol not in (known := plugins.names(PROTOCOLS)):
        raise UnknownNameError("protocol", protocol, ", ".join(known))
    with open_campaign(store, campaign) as (opened, found):
        if model is not None and model not in found.settings.get("models", [model]):
            raise UnknownNameError("model", model, f"{', '.join(found.settings['models'])} in campaign {found.name}")
        records = _chosen(opened, found, model, protocol, state, ranked=best is not None, pareto=pareto)
    if max_bits is not None:
        records = [
            r for r in records if "bits_per_value" in r.metrics and r.metrics["bits_per_value"].value <= max_bits
        ]
    rows = [row(record) for record in records[: best or limit]]
    listing(rows, COLUMNS, as_json=json, empty="No such trials.")


def _chosen(
    store: Store,
    campaign: CampaignRecord,
    model: str | None,
    protocol: str | None,
    state: Any,
    *,
    ranked: bool,
    pareto: bool,
) -> list[TrialRecord]:
    ids = None
    if pareto:
        answer = store.query(f"SELECT trial_id FROM pareto WHERE campaign_id = {campaign.id:d}", limit=10_000_000)  # noqa: S608
        ids = [int(found[0]) for found in answer.rows]
    ranking = "kld" if ranked else "bits_per_value" if pareto else None
    # Comparable is what was measured in one way: without a choice, rank what deployment sees.
    protocol = protocol or ("quality" if ranking else None)
    return store.trials.list(
        campaign.id, model=model, protocol=protocol, state=state, ids=ids, best=ranking, arrays=False
    )


def _bits(record: TrialRecord) -> float:
    metric = record.metrics.get("bits_per_value")
    return metric.value if metric else float("inf")


class TrialRow(TypedDict):
    """A trial as one row of a listing."""

    id: int
    number: int
    model: str
    protocol: str
    rung: int
    configuration: str
    layers: str
    bits_per_value: float | None
    kld: float | None
    state: str
    outcome: str
    message: str
    arm: str
    proposer: str
    seconds: float
    metrics: dict[str, float]


def output() -> object:
    """What `--json` prints."""
    return list[TrialRow]


def row(record: TrialRecord) -> TrialRow:
    """A trial as one row of a listing."""
    spec = record.spec
    layers = spec.layers
    values = {name: metric.value for name, metric in record.metrics.items()}
    return {
        "id": record.id,
        "number": record.number,
        "model": spec.model,
        "protocol": spec.protocol,
        "rung": spec.rung,
        "configuration": spec.kv.label,
        "layers": "all" if layers is None else f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else str(layers[0]),
        "bits_per_value": values.get("bits_per_value"),
        "kld": values.get("kld"),
        "state": record.state,
        "outcome": record.outcome,
        "message": record.message,
        "arm": record.arm,
        "proposer": record.proposer,
        "seconds": record.seconds,
        "metrics": values,
    }


COLUMNS = [
    Column("id", "trial", justify="right"),
    Column("model"),
    Column("protocol"),
    Column("rung", justify="right"),
    Column("configuration"),
    Column("layers"),
    Column("bits_per_value", "bits", lambda value: number(value, 3), "right"),
    Column("kld", "KLD", lambda value: number(value, 3), "right"),
    Column("state"),
    Column("outcome"),
    Column("proposer"),
]
