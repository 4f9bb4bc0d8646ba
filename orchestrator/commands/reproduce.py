"""`swarm reproduce`: run a trial again and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, emit_json, listing, note, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.experiments.spec import Measurement, Metric

PANEL = "Results"
MAX_RELATIVE_DIFFERENCE = 1e-9
MAX_STDERRS = 3.0
"""Standard errors within which another machine or release may differ."""


def command(
    trial: Annotated[int, typer.Argument(help="Number of the trial.", show_envvar=False)],
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Run a trial again in this process and compare every metric but times; nothing is stored.

    On the same machine and release the numbers are the same; elsewhere they may differ by a few standard errors.
    Exits with 1 when they differ by more. Example: `swarm reproduce 12`
    """
    from swarm.experiments.environment import code_version
    from swarm.experiments.measurement.runner import Runner
    from swarm.kernels.errors import UsageError
    from swarm.orchestrator.views.source import open_store

    with open_store(store) as opened:
        record = opened.trials.get(trial)
        told = opened.campaigns.get(record.campaign_id).settings
    corpus = told.get("corpus")
    if record.spec.protocol == "probe":
        again = f"swarm probe --endpoint {told.get('probe', 'URL')} --model {record.spec.model}"
        raise UsageError(
            f"trial {trial} measured a running engine, which this process is not.",
            f"Measure it again: `{again} --contexts {record.spec.context}`.",
        )
    if record.state != "complete":
        raise UsageError(f"trial {trial} is {record.state}: there is nothing to compare with.", "Name a complete one.")
    if record.environment and record.environment.code_version not in ("", code_version()):
        note("The measuring code is not the one that this trial ran with.")
    measurement = Runner(corpus=Path(corpus) if corpus else None).run(record.spec)
    rows = [_compare(metric, measurement) for metric in record.metrics.values() if not metric.timed]
    worst = max((row["verdict"] for row in rows), key=list(_VERDICTS).index)
    if json:
        emit_json({"trial": trial, "verdict": worst, "metrics": rows})
    else:
        listing(rows, COLUMNS)
        say(f"\n{_VERDICTS[worst]}")
    if worst == "differs":
        raise typer.Exit(1)


_VERDICTS = {
    "same": "Reproduced exactly.",
    "noise": "Reproduced within the noise.",
    "differs": "Not reproduced: see which metrics differ.",
}
COLUMNS = [
    Column("metric"),
    Column("stored", digits=8),
    Column("now", digits=8),
    Column("stderr", "std. error", digits=3),
    Column("verdict"),
]


class ComparedRow(TypedDict):
    """A metric as it is stored and as it came out now."""

    metric: str
    stored: float
    now: float | None
    stderr: float | None
    verdict: str


class Reproduced(TypedDict):
    """A trial that was run again."""

    trial: int
    verdict: str
    metrics: list[ComparedRow]


def output() -> object:
    """What `--json` prints."""
    return Reproduced


def _compare(metric: Metric, measurement: Measurement) -> ComparedRow:
    now = next((found.value for found in measurement.metrics if found.name == metric.name), None)
    difference = float("inf") if now is None else abs(now - metric.value)
    verdict = "differs"
    if difference <= MAX_RELATIVE_DIFFERENCE * max(1e-12, abs(metric.value)):
        verdict = "same"
    elif metric.stderr is not None and difference <= MAX_STDERRS * metric.stderr:
        verdict = "noise"
    return {"metric": metric.name, "stored": metric.value, "now": now, "stderr": metric.stderr, "verdict": verdict}
