"""What `launch` and `resume` say at the end: the summary, or how to go on. Knows records and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError
from swarm.orchestrator.console import say
from swarm.orchestrator.printing import show_markdown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.memory.records import CampaignRecord, CampaignState, TrialRecord
    from swarm.memory.store import Store


class AllFailedError(SwarmError):
    """A campaign in which no trial could be measured."""

    def __init__(self, first: Sequence[TrialRecord]) -> None:
        cause = " ".join(f"The first: trial {record.id}, {record.outcome}: {record.message}" for record in first[:1])
        super().__init__(f"every trial failed. {cause}", "Run `swarm doctor`, mend the cause, and launch again.")


def tell(store: Store, campaign: CampaignRecord, state: CampaignState) -> None:
    """Print the newest summary and what to do next.

    Raises:
        AllFailedError: the campaign is over and has no measurement.
    """
    counts = store.trials.count(campaign.id)
    finished = sum(amount for what, amount in counts.items() if what not in ("waiting", "running"))
    say()
    if state != "complete":
        say(f"{finished} of {campaign.budget.trials} trials are recorded. Go on with `swarm resume {campaign.name}`.")
        return
    if not counts.get("complete", 0):
        raise AllFailedError(store.trials.list(campaign.id, upto=1))
    from swarm.orchestrator.views.source import Source

    for summary in store.summaries.list(campaign.id)[-1:]:
        show_markdown(Source(store, campaign).resolver.render(summary.summary.text))
        say()
        say(f"Summary {summary.id} waits for you: `swarm review {summary.id} --accept` or `--reject --note ...`.")
    _tell_llm(store, campaign)
    say("Look further with `swarm findings`, `swarm trials --pareto` and `swarm query`.")


def _tell_llm(store: Store, campaign: CampaignRecord) -> None:
    from swarm.agents.llm.telemetry import in_words, report

    llm = report(store, campaign.id)
    if llm is not None:
        say(f"The LLM {llm['model'] or ''}: {in_words(llm)}.")
