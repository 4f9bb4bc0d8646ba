"""`swarm status`: how campaigns stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import TypedDict

from swarm.orchestrator.console import Column, duration, emit_json, listing, number, say
from swarm.orchestrator.options import CampaignName, Json, StoreUrl

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord
    from swarm.memory.store import Store

PANEL = "Campaigns"
EVENTS = 5


def command(
    campaign: CampaignName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow a running campaign, as `launch` shows it.")] = False,
    store: StoreUrl = None,
    json: Json = False,
) -> None:
    """Say how the campaigns of a store stand: trials, budget and spend, best per model, what happened last.

    Examples: `swarm status`, `swarm status --watch`
    """
    from swarm.kernels.errors import UsageError
    from swarm.orchestrator.monitor.watching import follow
    from swarm.orchestrator.reading import open_store
    from swarm.orchestrator.stop import Stop

    if watch and json:
        raise UsageError("--watch has no JSON form.", "Call `swarm status --json` again and again instead.")
    with open_store(store) as opened:
        if not json and not opened.campaigns.list():
            say("There are no campaigns. Start with `swarm launch`.")
            return
        found = opened.campaigns.get(campaign)
        if watch and found.state == "running":
            with Stop() as stop:
                follow(opened, found, stop)
            found = opened.campaigns.get(found.id)
        stands = state(opened, found)
        if json:
            emit_json(stands)
        else:
            _tell(opened, stands)


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


def output() -> object:
    """What `--json` prints."""
    return Status


def state(store: Store, campaign: CampaignRecord) -> Status:
    """How a campaign stands, as JSON."""
    from swarm.agents.llm.telemetry import report

    accounts = store.ledger.totals(campaign.id).values()
    pending = [s.id for s in store.summaries.list(campaign.id, state="pending")]
    findings = [record.finding.status for record in store.findings.list(campaign.id)]
    return {
        "id": campaign.id,
        "name": campaign.name,
        "state": campaign.state,
        "seed": campaign.seed,
        "created_at": campaign.created_at.isoformat(),
        "finished_at": campaign.finished_at.isoformat() if campaign.finished_at else None,
        "budget": campaign.budget.model_dump(),
        "trials": {str(name): amount for name, amount in store.trials.count(campaign.id).items()},
        "spend": {a.kind: {"spent": a.spent, "reserved": a.reserved, "cap": a.cap} for a in accounts},
        "findings": {status: findings.count(status) for status in sorted(set(findings))},
        "pending_summaries": pending,
        "best": _best(store, campaign),
        "events": [
            {"at": event.created_at.isoformat(), "kind": event.kind, "message": event.message, "trial": event.trial_id}
            for event in store.events.list(campaign.id, limit=EVENTS, newest=True)
        ],
        "llm": report(store, campaign.id),
        "settings": campaign.settings,
    }


def _best(store: Store, campaign: CampaignRecord) -> list[BestRow]:
    from swarm.orchestrator.monitor.news import TARGET_BITS

    found: Any = store.query(
        f"""SELECT model, rung, trial_id, configuration, kld, bits_per_value, proposer FROM best_per_model
            WHERE campaign_id = {campaign.id:d} AND limit_from <= {TARGET_BITS} AND limit_below > {TARGET_BITS}
            ORDER BY model, rung"""  # noqa: S608 - an id and a constant
    ).records()
    return list(found)


def _tell(store: Store, state: Status) -> None:
    counts, spend = state["trials"], state["spend"]
    others = [c for c in store.campaigns.list() if c.id != state["id"]]
    finished = sum(amount for name, amount in counts.items() if name not in ("waiting", "running"))
    say(f"{state['name']}: {state['state']}, {finished} of {state['budget']['trials']} trials")
    say("trials    " + ", ".join(f"{amount} {name}" for name, amount in sorted(counts.items())))
    time_cap = spend["seconds"]["cap"]
    say(
        f"time      {duration(spend['seconds']['spent'])}"
        + (f" of {duration(time_cap)}" if time_cap else "")
        + f", workers {duration(spend['worker_seconds']['spent'])}"
    )
    _tell_llm(state)
    if state["findings"]:
        say("findings  " + ", ".join(f"{amount} {name}" for name, amount in state["findings"].items()))
    if state["pending_summaries"]:
        say("review    summaries " + ", ".join(map(str, state["pending_summaries"])) + " are pending")
    if state["best"]:
        say()
        columns = [
            Column("model"),
            Column("rung"),
            Column("trial_id", "trial"),
            Column("kld", "KLD", lambda v: number(v, 3), "right"),
        ]
        columns += [Column("bits_per_value", "bits", lambda v: number(v, 3), "right"), Column("configuration")]
        listing(state["best"], columns, as_json=False)
    for event in state["events"]:
        say(f"{event['at'][11:19]} {event['kind']} {event['message'][:140]}")
    if others:
        say()
        rows = [
            {"name": c.name, "state": c.state, "trials": f"{c.next_number}/{c.budget.trials}", "seed": c.seed}
            for c in others
        ]
        listing(
            rows, [Column("name", "other campaigns"), Column("state"), Column("trials"), Column("seed")], as_json=False
        )


def _tell_llm(state: Status) -> None:
    from swarm.agents.llm.telemetry import in_words

    asked, spend, llm = state["settings"].get("llm", "none"), state["spend"], state["llm"]
    if llm is None:
        say("LLM       none: nothing left this machine" if asked == "none" else f"LLM       {asked}, not asked yet")
        return
    say(f"LLM       {asked} {llm['model'] or ''}: {in_words(llm)}")
    for kind in ("tokens", "usd"):
        if spend[kind]["cap"] is not None:
            say(f"          {kind}: {number(spend[kind]['spent'])} of {number(spend[kind]['cap'])}")
    for role, did in llm["roles"].items():
        say(f"          {role}: {in_words(did)}")
    if llm["trouble"]:
        say(f"          last trouble: {llm['trouble'][:160]}")
