"""How a campaign stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from swarm.orchestrator.views.source import Source

EVENTS = 5
"""How many of the latest events are told."""


class Spend(TypedDict):
    """One account of the budget."""

    spent: float
    reserved: float
    cap: float | None


class BestRow(TypedDict):
    """The best configuration of a model on a rung."""

    model: str
    rung: int
    trial_id: int
    configuration: str
    kld: float
    bits_per_value: float
    proposer: str


class EventRow(TypedDict):
    """Something that happened."""

    at: str
    kind: str
    message: str
    trial: int | None


class Status(TypedDict):
    """How a campaign stands."""

    id: int
    name: str
    state: str
    seed: int
    created_at: str
    finished_at: str | None
    budget: dict[str, float | None]
    trials: dict[str, int]
    spend: dict[str, Spend]
    findings: dict[str, int]
    pending_summaries: list[int]
    best: list[BestRow]
    events: list[EventRow]
    llm: dict[str, Any] | None
    settings: dict[str, Any]


def status(source: Source) -> Status:
    """How a campaign stands: trials, budget and spend, best per model, findings, what happened last."""
    from swarm.agents.llm.telemetry import report

    store, campaign = source.store, source.campaign
    findings = [record.finding.status for record in source.findings]
    return {
        "id": campaign.id,
        "name": campaign.name,
        "state": campaign.state,
        "seed": campaign.seed,
        "created_at": campaign.created_at.isoformat(),
        "finished_at": campaign.finished_at.isoformat() if campaign.finished_at else None,
        "budget": campaign.budget.model_dump(),
        "trials": {str(name): amount for name, amount in source.counts.items()},
        "spend": {
            a.kind: {"spent": a.spent, "reserved": a.reserved, "cap": a.cap}
            for a in store.ledger.totals(campaign.id).values()
        },
        "findings": {name: findings.count(name) for name in sorted(set(findings))},
        "pending_summaries": [record.id for record in store.summaries.list(campaign.id, state="pending")],
        "best": [cast("BestRow", {key: row[key] for key in BestRow.__annotations__}) for row in best(source)],
        "events": [
            {"at": event.created_at.isoformat(), "kind": event.kind, "message": event.message, "trial": event.trial_id}
            for event in store.events.list(campaign.id, limit=EVENTS, newest=True)
        ],
        "llm": report(store, campaign.id),
        "settings": campaign.settings,
    }


def best(source: Source) -> list[dict[str, Any]]:
    """The configuration with the lowest KLD per model and rung, among those within the target of bits per value.

    The keys of `BestRow`, and `same_top1`.
    """
    from swarm.orchestrator.monitor.progress import TARGET_BITS

    return source.rows(
        f"""SELECT model, rung, trial_id, configuration, kld, bits_per_value, same_top1, proposer FROM best_per_model
            WHERE campaign_id = {{campaign}} AND limit_from <= {TARGET_BITS} AND limit_below > {TARGET_BITS}
            ORDER BY model, rung"""  # noqa: S608 - a constant
    )
