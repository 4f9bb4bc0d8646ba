"""A finding's page: the claim, its effect, and the trials that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Cell, Chart, Code, Column, Facts, Page, Paragraph, Part, Ref, Table
from swarm.orchestrator.pages.cells import moment
from swarm.orchestrator.pages.entities import TRIAL_COLUMNS, effect, metric, status, trial_row, trial_state
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store

MOST = 300
MOST_POINTS = 40

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
    evidence = store.trials.list(ids=finding.evidence[:MOST], arrays=False)
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
    if len(finding.evidence) > MOST:
        found.append(Paragraph(f"The first {MOST} of {len(finding.evidence):,} trials.", "warn"))
    found.append(Table(f"Trials: {len(evidence)}", TRIAL_COLUMNS, [trial_row(trial) for trial in evidence]))
    parts = [Part("claim", "The claim", [claim]), Part("evidence", "What it rests on", found)]
    parts += _led_to(source, identity)
    crumbs = (Ref("campaign", campaign.id, campaign.name), Ref("campaign", campaign.id, "findings", place="findings"))
    return Page(f"Finding {record.id}", parts, finding.statement, crumbs)


def _chart(trials: Sequence[TrialRecord]) -> list[Block]:
    """The KLD of the evidence, one row per trial, in order of model and configuration."""
    measured = [trial for trial in trials if trial.state == "complete" and "kld" in trial.metrics]
    measured = [trial for trial in measured if trial.metrics["kld"].value > 0][:MOST_POINTS]
    measured.sort(key=lambda trial: (trial.spec.model, trial.spec.kv.label, trial.id), reverse=True)
    if len(measured) < 2:
        return []
    traces = []
    places = {trial.id: place for place, trial in enumerate(measured)}
    for index, model in enumerate(sorted({trial.spec.model for trial in measured})):
        mine = [trial for trial in measured if trial.spec.model == model]
        spans = [span for trial in mine if (span := metric(trial, "kld"))]
        values = [span.value for span in spans]
        trace = charts.points(
            model,
            values,
            [places[trial.id] for trial in mine],
            colour=charts.PALETTE[index % len(charts.PALETTE)],
            symbol=charts.SYMBOLS[index % len(charts.SYMBOLS)],
            texts=[f"trial {trial.id}: {trial.spec.kv.label}" for trial in mine],
            ids=[trial.id for trial in mine],
        )
        traces.append(trace | {"error_x": charts.spread([s.low for s in spans], values, [s.high for s in spans])})
    ticks = {"tickvals": list(places.values()), "ticktext": [f"trial {identity}" for identity in places]}
    kld = [trial.metrics["kld"].value for trial in measured]
    return [
        Chart(
            "KLD of the trials, 95% interval",
            f"KLD of {len(measured)} trials, from {min(kld):.3g} to {max(kld):.3g}.",
            traces,
            charts.layout(
                charts.log_axis("KLD, nat", kld), charts.axis("", showgrid=False, **ticks), 140 + 18 * len(measured)
            ),
        )
    ]


def _led_to(source: Source, identity: int) -> list[Part]:
    led = {int(row["id"]): row for row in source.rows(_LED_TO, MOST, finding=identity)}
    if not led:
        return []
    trials = source.store.trials.list(ids=list(led), arrays=False)
    columns = [Column("Trial"), Column("State"), Column("KLD, 95% interval", True), Column("Proposer")]
    columns += [Column("Rationale"), Column("Of revision", True)]
    rows: list[list[Cell]] = [
        [
            Ref("trial", trial.id), trial_state(trial), metric(trial, "kld"), trial.proposer,
            led[trial.id]["rationale"], led[trial.id]["revision"],
        ]
        for trial in trials
    ]  # fmt: skip
    return [Part("led", "What it led to", [Table(f"Trials: {len(rows)}", columns, rows)])]
