"""`swarm probe`: how a running engine behaves as the context grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NotRequired

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, emit_json, listing, note, rate, say
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.experiments.engines.probe.endpoint import Endpoint
    from swarm.experiments.engines.probe.scenarios import Probed, ProbeSettings
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store

PANEL = "Use"


def command(
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help="OpenAI-compatible engine, such as http://localhost:8080/v1.")
    ],
    model: Annotated[str | None, typer.Option(help="Its model.  [default: the only one it lists]")] = None,
    contexts: Annotated[
        str, typer.Option(metavar="A,B", help="Context lengths in tokens.")
    ] = "2K,4K,8K,16K,32K,64K,128K",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate per request.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of everything.")] = 3,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Clients at once; 1 leaves that test out.")] = 2,
    corpus: Annotated[str | None, typer.Option(metavar="FILE", help="Text that prompts are cut from.")] = None,
    api_key: Annotated[str, typer.Option(metavar="KEY", help="Sent to the engine.", show_default=False)] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for any piece of an answer.")] = 600.0,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Measure a running Ollama, llama-server, LM Studio, mlx_lm.server or vLLM.

    For each context length: time to first token, prefill and decode rate, what a shared prefix and several clients
    at once change, and memory where the engine tells. Results are trials of a campaign of their own in the store.

    Examples: `swarm probe --endpoint http://localhost:11434 --model llama3.1`,
    `swarm probe --endpoint localhost:8080 --contexts 2K,32K --repeats 1`
    """
    from pathlib import Path

    from swarm.experiments.engines.probe.endpoint import Endpoint
    from swarm.experiments.engines.probe.scenarios import ProbeSettings
    from swarm.experiments.sizing.units import parse_tokens
    from swarm.experiments.text import Corpus

    lengths = tuple(parse_tokens(part) for part in contexts.split(","))
    settings = ProbeSettings(contexts=lengths, max_tokens=tokens, repeats=repeats, clients=clients)
    text = Corpus.open(Path(corpus) if corpus else None).text
    subject = Endpoint(endpoint, model, api_key=api_key, timeout=timeout)
    rows, campaign = _measure(subject, settings, text, store)
    if json:
        engine = {"endpoint": subject.name, "engine": subject.engine.name, "model": subject.model}
        emit_json({**engine, "campaign": campaign, "results": rows})
    else:
        _show(subject, settings, rows)
        note(f"Kept as campaign {campaign}.")


class ProbedMetric(TypedDict):
    """One measured number; its name is the key."""

    value: float
    unit: str
    n: int
    stderr: float | None


class ProbedRow(TypedDict):
    """What was measured at one context length, or why nothing could be."""

    trial: int
    context: int
    refusal: str | None
    metrics: NotRequired[dict[str, ProbedMetric]]


class ProbeResult(TypedDict):
    """A whole probe."""

    endpoint: str
    engine: str
    model: str
    campaign: str
    results: list[ProbedRow]


def output() -> object:
    """What `--json` prints."""
    return ProbeResult


def _measure(
    subject: Endpoint, settings: ProbeSettings, text: str, store: str | None
) -> tuple[list[dict[str, Any]], str]:
    from swarm.experiments.engines.probe import scenarios
    from swarm.memory.store import Store
    from swarm.orchestrator import one_off
    from swarm.orchestrator.settings import store_url

    name = subject.engine.name
    facts = {"probe": subject.name, "engine": name, "model": subject.model, **settings.model_dump(mode="json")}
    trials = len(set(settings.contexts))
    with (
        Store.open(store_url(store), create=True) as opened,
        one_off.recording(opened, f"probe-{name}", facts, trials) as campaign,
    ):
        title = f"{subject.engine.title} at {subject.name}"
        rows = [
            _row(found, _record(opened, campaign, number, found, title))
            for number, found in enumerate(scenarios.run(subject, settings, text, note))
        ]
    return rows, campaign.name


def _record(store: Store, campaign: CampaignRecord, number: int, found: Probed, title: str) -> int:
    """Write what was measured at one context length as a trial; returns its id."""
    from swarm.experiments.spec import Failure
    from swarm.memory.records import Proposal
    from swarm.orchestrator import one_off

    proposal = Proposal(spec=found.spec, proposer="probe", arm="defaults", rationale=f"probe of {title}")
    result = found.measurement or Failure(kind="refused", message=found.refusal)
    return one_off.record(store, campaign, number, proposal, result).id


def _row(found: Probed, trial: int) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": trial, "context": found.spec.context, "refusal": found.refusal or None}
    if found.measurement is not None:
        row["metrics"] = {metric.name: metric.model_dump(exclude={"name"}) for metric in found.measurement.metrics}
    return row


def _show(subject: Endpoint, settings: ProbeSettings, rows: list[dict[str, Any]]) -> None:
    from swarm.experiments.sizing.units import tokens

    say(f"{subject.engine.title} at {subject.name}, model {subject.model}", style="bold")
    values = [
        {"context": row["context"], **{name: told["value"] for name, told in row["metrics"].items()}}
        for row in rows
        if "metrics" in row
    ]
    names = {name for value in values for name in value}
    tables = {
        "A fresh prompt, one client": _FRESH,
        "A prompt that shares all but its end with the one before": _SHARED,
        f"{settings.clients} clients at once": _CLIENTS,
        "Memory that the engine tells": {
            name: name.removeprefix("memory_") for name in sorted(names) if "memory_" in name
        },
    }
    for title, headings in tables.items():
        found = {name: heading for name, heading in headings.items() if name in names}
        if found:
            say()
            say(title)
            columns = [Column("context", show=tokens, right=True)]
            listing(values, columns + [_column(*each) for each in found.items()])
    for row in rows:
        if row["refusal"]:
            say(f"{tokens(row['context'])}: {row['refusal']}")


def _column(name: str, heading: str) -> Column:
    from swarm.experiments.sizing.units import size

    return Column(name, heading, show=size if name.startswith("memory_") else rate, right=True)


_FRESH = {
    "prompt_tokens": "prompt tokens",
    "ttft": "first token, s",
    "prefill_rate": "prefill tok/s",
    "engine_prefill_tokens_per_second": "engine says",
    "decode_rate": "decode tok/s",
    "engine_decode_tokens_per_second": "engine says",
}
_SHARED = {
    "shared_ttft": "first token, s",
    "shared_speedup": "times faster",
    "shared_cached": "share not computed again",
}
_CLIENTS = {
    "clients_ttft": "first token, s",
    "clients_decode_rate": "decode tok/s each",
    "clients_throughput": "tok/s in all",
    "clients_gain": "times one client",
}
