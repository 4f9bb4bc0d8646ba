"""Pages that list: campaigns, a campaign's trials, findings that hold words; each reads a bounded number of rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.orchestrator.pages.blocks import Bar, Block, Columns, Page, PagePart, Paragraph, Ref, Table, Tag
from swarm.orchestrator.pages.entities import CAMPAIGN_TONES, FINDINGS, TRIALS, crumbs, moment
from swarm.orchestrator.views.choices import FINDING_STATUSES, TRIAL_STATES, check_choice
from swarm.orchestrator.views.source import PAGE, Source

if TYPE_CHECKING:
    from swarm.memory.records import CampaignRecord, FindingRecord, TrialRecord
    from swarm.memory.store import Store

MAX_CAMPAIGNS = 100
MAX_ROWS = 100

_STATUSES = "SELECT campaign_id, status, COUNT(*) AS n FROM findings GROUP BY campaign_id, status"


def campaigns(store: Store) -> Page:
    """All campaigns, the latest first."""
    known = store.campaigns.list()[::-1]
    if not known:
        text = "There are no campaigns in this store yet. Start one with “swarm launch”; it appears here."
        return Page("Campaigns", [PagePart("campaigns", "Campaigns", [Paragraph(text)])], store.place)
    shown = known[:MAX_CAMPAIGNS]
    statuses: dict[int, Counter[str]] = defaultdict(Counter)
    for found in Source(store, shown[0], PAGE).rows(_STATUSES):
        statuses[found["campaign_id"]][found["status"]] = found["n"]
    pending = {record.campaign_id: record.id for record in store.summaries.list(state="pending")}
    sources = [Source(store, campaign, PAGE) for campaign in shown]
    columns: Columns = {
        "Campaign": lambda source: Ref("campaign", source.campaign.id, source.campaign.name),
        "State": lambda source: Tag(source.campaign.state, CAMPAIGN_TONES[source.campaign.state]),
        "Trials": lambda source: Bar(source.finished, source.campaign.budget.trials),
        "Models": _models,
        "Findings": lambda source: _findings(statuses[source.campaign.id]),
        "To review": lambda source: (
            Ref("summary", pending[source.campaign.id]) if source.campaign.id in pending else None
        ),
        "Started": lambda source: moment(source.campaign.created_at),
    }
    blocks: list[Block] = [Table.of("The latest first", sources, columns, stacked=True)]
    if len(known) > MAX_CAMPAIGNS:
        blocks.append(Paragraph(f"The latest {MAX_CAMPAIGNS} of {len(known):,}."))
    return Page("Campaigns", [PagePart("campaigns", "Campaigns", blocks)], store.place)


def _models(source: Source) -> str:
    settings = source.campaign.settings
    return ", ".join(str(model) for model in settings.get("models") or [settings.get("model", "")])


def _findings(statuses: Counter[str]) -> str | None:
    return f"{statuses.total()}, {statuses['confirmed']} confirmed" if statuses else None


@dataclass(frozen=True)
class Choice:
    """Which trials are listed: filters, the order, and where the page begins."""

    model: str = ""
    protocol: str = ""
    state: str = ""
    order: str = "number"
    after: int = -1


ORDERS = ("number", "kld", "bits_per_value")


def trials(store: Store, campaign: CampaignRecord, choice: Choice) -> tuple[Page, int | None]:
    """One page of a campaign's trials, and the number after which the next page begins, if there is one.

    Raises:
        UnknownNameError: the choice names an unknown state or order.
    """
    check_choice("state", choice.state or None, TRIAL_STATES)
    check_choice("order", choice.order, ORDERS)
    ranked = choice.order != "number"
    state: Any = choice.state or None
    found: list[TrialRecord] = store.trials.list(
        campaign.id,
        model=choice.model or None,
        protocol=choice.protocol or None,
        state=state,
        after=None if ranked else choice.after,
        best=choice.order if ranked else None,
        limit=MAX_ROWS + 1,
        arrays=False,
    )
    table = Table.of("Trials", found[:MAX_ROWS], TRIALS)
    blocks: list[Block] = [table if found else Paragraph("No such trials.")]
    further = found[MAX_ROWS - 1].number if len(found) > MAX_ROWS and not ranked else None
    return Page(f"Trials of {campaign.name}", [PagePart("trials", "Trials", blocks)], crumbs=crumbs(campaign)), further


def findings(store: Store, words: str, status: str, campaign: CampaignRecord | None) -> Page:
    """Findings that hold the words, best match first; without words the latest.

    Raises:
        UnknownNameError: there is no such status.
    """
    check_choice("status", status or None, FINDING_STATUSES)
    identity = campaign.id if campaign else None
    found: list[FindingRecord]
    if words:
        found = store.findings.search(words, identity, limit=MAX_ROWS)
        heading = f"Findings with “{words}”"
    else:
        chosen: Any = status or None
        found = store.findings.list(identity, status=chosen, limit=MAX_ROWS)
        heading = "Findings"
    found = [record for record in found if not status or record.finding.status == status]
    blocks: list[Block] = [Paragraph("No such findings.")]
    if found:
        blocks = [Table.of(f"{len(found)} findings", found, FINDINGS, stacked=True)]
    if len(found) == MAX_ROWS:
        blocks.append(Paragraph(f"Only the first {MAX_ROWS} are shown: search with more words."))
    return Page(heading, [PagePart("findings", "Findings", blocks)])
