"""`swarm show`: everything about one trial, finding, proposal or summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from swarm.orchestrator.console import Column, emit_json, listing, number, say
from swarm.orchestrator.options import Json, StoreUrl
from swarm.orchestrator.printing import list_trials, show_summary
from swarm.orchestrator.views.choices import check_choice
from swarm.orchestrator.views.findings import interval
from swarm.orchestrator.views.shown import KINDS, shown
from swarm.orchestrator.views.summaries import ShownSummary
from swarm.orchestrator.views.trials import OUTDATED

if TYPE_CHECKING:
    from swarm.memory.store import Store

PANEL = "Results"


def command(
    kind: Annotated[str, typer.Argument(help="trial, finding, proposal or summary.", show_envvar=False)],
    identity: Annotated[int, typer.Argument(metavar="ID", help="Its number.", show_envvar=False)],
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Show one thing in full, with its links to others.

    Examples: `swarm show trial 12`, `swarm show finding 3 --json`
    """
    from swarm.orchestrator.views.source import open_store

    check_choice("kind", kind, KINDS)
    tell = {"trial": _trial, "finding": _finding, "proposal": _proposal, "summary": show_summary}[kind]
    with open_store(store) as opened:
        if json:
            emit_json(shown(opened, kind, identity))
        else:
            tell(opened, identity)


def _trial(store: Store, identity: int) -> None:
    from swarm.experiments import edits

    record = store.trials.get(identity)
    spec, environment = record.spec, record.environment
    layers = spec.layers
    _facts(
        {
            "trial": f"{record.id} (number {record.number} of campaign {store.campaigns.get(record.campaign_id).name})",
            "state": record.state + (f", {record.outcome}" if record.outcome not in ("", "ok") else ""),
            "message": record.message,
            "outdated": OUTDATED if record.outdated else "",
            "model": f"{spec.model} {spec.model_digest[:12]}",
            "engine" if spec.engine else "cache": spec.label,
            "layers": "all" if layers is None else ", ".join(map(str, layers)),
            "protocol": f"{spec.protocol}, rung {spec.rung}, context {spec.context}, replicate {spec.replicate}",
            "logit gain": spec.logit_gain if spec.logit_gain != 1 else "",
            "weights edited": edits.label(spec.edits),
            "proposed by": f"{record.proposer} ({record.arm} arm), proposal {record.proposal_id}",
            "rationale": record.rationale,
            "findings": ", ".join(map(str, record.parents)),
            "prediction": _prediction(record.prediction, record.verdict),
            "notes": record.notes,
            "took": f"{record.seconds:.2f} s, {record.attempts} attempt{'s' * (record.attempts != 1)}",
            "device": environment and f"{environment.device}; {environment.blas}",
            "versions": environment and ", ".join(f"{k} {v}" for k, v in environment.versions.items()),
            "fingerprint": record.fingerprint,
            "reproduce": f"swarm reproduce {record.id}",
        }
    )
    if record.metrics:
        say()
        columns = [Column("name", "metric"), Column("value", digits=6), Column("stderr", "std. error", digits=3)]
        rows = [metric.model_dump() for metric in record.metrics.values()]
        listing(rows, [*columns, Column("n"), Column("unit")])
    for name, series in record.arrays.items():
        say(f"{name}: " + " ".join(number(value, 3) for value in series))


def _finding(store: Store, identity: int) -> None:
    record = store.findings.get(identity)
    finding = record.finding
    _facts(
        {
            "finding": f"{record.id} (revision {record.revision})",
            "kind": finding.kind,
            "status": finding.status,
            "statement": finding.statement,
            "effect": interval(finding.effect),
            "models": ", ".join(finding.models),
            "author": finding.author,
        }
    )
    say()
    list_trials(store.trials.list(ids=finding.evidence, arrays=False))


def _proposal(store: Store, identity: int) -> None:
    record = store.proposals.get(identity)
    _facts(
        {
            "proposal": record.id,
            "for": f"number {record.number}",
            "proposed by": f"{record.proposer} ({record.arm} arm)",
            "rationale": record.rationale,
            "findings": ", ".join(map(str, record.parents)),
            "trial": record.trial_id,
            "refused": record.refused,
        }
    )


def _facts(facts: dict[str, Any]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in (None, ""):
            say(f"{name:<{width}}  {value}")


def _prediction(prediction: Any, verdict: str | None) -> str:
    if prediction is None:
        return ""
    of = f" times trial {prediction.reference}" if prediction.reference is not None else ""
    text = f"{prediction.metric} {prediction.comparator} {number(prediction.threshold)}{of}"
    return text + (f": {verdict}" if verdict else "")


def output() -> object:
    """What `--json` prints, by kind."""
    from swarm.memory.records import FindingRecord, ProposalRecord, TrialRecord

    return TrialRecord | FindingRecord | ProposalRecord | ShownSummary
