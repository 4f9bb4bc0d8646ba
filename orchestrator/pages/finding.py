"""A finding's page: the claim, its effect, and the trials that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import (
    Block,
    Chart,
    Code,
    Columns,
    Facts,
    Num,
    Page,
    PagePart,
    Paragraph,
    Ref,
    Table,
)
from swarm.orchestrator.pages.entities import TRIALS, crumbs, effect, metric, moment, status, trial_state
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store

MAX_TRIALS = 300
MAX_POINTS = 40

_LED_TO = """SELECT p.trial_id AS id, p.proposer, p.rationale, pp.revision FROM proposal_parents pp
JOIN proposals p ON p.id = pp.proposal_id WHERE pp.finding_id = {finding} AND p.trial_id IS NOT NULL ORDER BY p.id"""


def page(store: Store, identity: int) -> Page:
    """The page of a finding.

    Raises:
        UnknownNameError: there is none.
    """
    record = store.findings.get(identity)
    finding = record.finding
    campaign = store.campaigns.get(record.campaign_id)
    source = Source(store, campaign, PAGE)
    evidence = store.trials.list(ids=finding.evidence[:MAX_TRIALS], arrays=False)
    claim = Facts(
        {
            "Status": status(finding.status),
            "Kind": finding.kind,
            finding.effect.name.capitalize() if finding.effect else "Effect": effect(record),
            "Models": ", ".join(finding.models),
            "Author": finding.author,
            "Campaign": Ref("campaign", campaign.id, campaign.name),
            "Revision": record.revision,
            "First seen": moment(record.created_at),
            "Last changed": moment(record.updated_at),
            "Key": Code(finding.key),
        }
    )
    found: list[Block] = _chart(evidence)
    if len(finding.evidence) > MAX_TRIALS:
        found.append(Paragraph(f"The first {MAX_TRIALS} of {len(finding.evidence):,} trials.", "warn"))
    found.append(Table.of(f"Trials: {len(evidence)}", evidence, TRIALS))
    parts = [PagePart("claim", "The claim", [claim]), PagePart("evidence", "What it rests on", found)]
    parts += _led_to(source, identity)
    return Page(f"Finding {record.id}", parts, finding.statement, crumbs(campaign, place="findings"))


def _chart(trials: Sequence[TrialRecord]) -> list[Block]:
    """The KLD of the evidence, one row per trial, in order of model and configuration."""
    measured = [trial for trial in trials if trial.state == "complete" and "kld" in trial.metrics]
    measured = [trial for trial in measured if trial.metrics["kld"].value > 0][:MAX_POINTS]
    measured.sort(key=lambda trial: (trial.spec.model, trial.spec.label, trial.id), reverse=True)
    if len(measured) < 2:
        return []
    traces = []
    places = {trial.id: place for place, trial in enumerate(measured)}
    for index, model in enumerate(sorted({trial.spec.model for trial in measured})):
        mine = [trial for trial in measured if trial.spec.model == model]
        spans = [span for trial in mine if (span := metric(trial, "kld"))]
        traces.append(
            charts.points(
                model,
                spans,
                [places[trial.id] for trial in mine],
                **charts.style(index),
                texts=[f"trial {trial.id}: {trial.spec.label}" for trial in mine],
                ids=[trial.id for trial in mine],
            )
        )
    kld = [trial.metrics["kld"].value for trial in measured]
    return [
        Chart(
            "KLD of the trials, 95% interval",
            f"KLD of {len(measured)} trials, from {min(kld):.3g} to {max(kld):.3g}.",
            traces,
            charts.layout(
                charts.log_axis("KLD, nat", kld), charts.named_axis("trial", places), 140 + 18 * len(measured)
            ),
        )
    ]


def _led_to(source: Source, identity: int) -> list[PagePart]:
    led = {int(row["id"]): row for row in source.rows(_LED_TO, MAX_TRIALS, finding=identity)}
    if not led:
        return []
    trials = source.store.trials.list(ids=list(led), arrays=False)
    columns: Columns = {
        "Trial": lambda trial: Ref("trial", trial.id),
        "State": trial_state,
        Num("KLD, 95% interval"): lambda trial: metric(trial, "kld"),
        "Proposer": lambda trial: trial.proposer,
        "Rationale": lambda trial: led[trial.id]["rationale"],
        Num("Of revision"): lambda trial: led[trial.id]["revision"],
    }
    return [PagePart("led", "What it led to", [Table.of(f"Trials: {len(trials)}", trials, columns)])]
