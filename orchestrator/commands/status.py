"""`swarm status`: how campaigns stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.orchestrator.console import Column, duration, emit_json, listing, number, say
from swarm.orchestrator.options import CampaignName, Json, StoreUrl
from swarm.orchestrator.views.status import Status, status

if TYPE_CHECKING:
    from swarm.memory.store import Store

PANEL = "Campaigns"


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
    from swarm.orchestrator.foreground import StopSignals
    from swarm.orchestrator.monitor.view import follow
    from swarm.orchestrator.views.source import Source, open_store

    if watch and json:
        raise UsageError("--watch has no JSON form.", "Call `swarm status --json` again and again instead.")
    with open_store(store) as opened:
        if not json and not opened.campaigns.list():
            say("There are no campaigns. Start with `swarm launch`.")
            return
        found = opened.campaigns.get(campaign)
        if watch and found.state == "running":
            with StopSignals() as signals:
                follow(opened, found, signals.defer)
            found = opened.campaigns.get(found.id)
        stands = status(Source(opened, found))
        if json:
            emit_json(stands)
        else:
            _tell(opened, stands)


def output() -> object:
    """What `--json` prints."""
    return Status


def _tell(store: Store, stands: Status) -> None:
    counts, spend = stands["trials"], stands["spend"]
    others = [c for c in store.campaigns.list() if c.id != stands["id"]]
    finished = sum(amount for name, amount in counts.items() if name not in ("waiting", "running"))
    say(f"{stands['name']}: {stands['state']}, {finished} of {stands['budget']['trials']} trials")
    say("trials    " + ", ".join(f"{amount} {name}" for name, amount in sorted(counts.items())))
    time_cap = spend["seconds"]["cap"]
    say(
        f"time      {duration(spend['seconds']['spent'])}"
        + (f" of {duration(time_cap)}" if time_cap else "")
        + f", workers {duration(spend['worker_seconds']['spent'])}"
    )
    _tell_llm(stands)
    if stands["findings"]:
        say("findings  " + ", ".join(f"{amount} {name}" for name, amount in stands["findings"].items()))
    if stands["pending_summaries"]:
        pending = stands["pending_summaries"]
        what, are = ("summary", "is") if len(pending) == 1 else ("summaries", "are")
        say(f"review    {what} {', '.join(map(str, pending))} {are} pending")
    if stands["best"]:
        say()
        columns = [
            Column("model"),
            Column("rung"),
            Column("trial_id", "trial"),
            Column("kld", "KLD", digits=3),
        ]
        columns += [Column("bits_per_value", "bits", digits=3), Column("configuration")]
        listing(stands["best"], columns)
    for event in stands["events"]:
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


def _tell_llm(stands: Status) -> None:
    from swarm.agents.llm.telemetry import in_words

    asked, spend, llm = stands["settings"].get("llm", "none"), stands["spend"], stands["llm"]
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
