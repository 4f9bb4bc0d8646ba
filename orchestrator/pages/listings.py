"""Pages that list: campaigns, a campaign's trials, findings that hold words. Knows the store; bounded throughout."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.orchestrator.pages.blocks import Bar, Block, Cell, Column, Page, Paragraph, Part, Ref, Table, Tag
from swarm.orchestrator.pages.cells import moment
from swarm.orchestrator.pages.entities import FINDING_COLUMNS, TRIAL_COLUMNS, finding_row, trial_row
from swarm.orchestrator.pages.sections.overview import STATES
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
        return Page("Campaigns", [Part("campaigns", "Campaigns", [Paragraph(text)])], store.place)
    columns = [Column("Campaign"), Column("State"), Column("Trials"), Column("Models"), Column("Findings")]
    columns += [Column("To review"), Column("Started")]
    shown = known[:MAX_CAMPAIGNS]
    statuses: dict[int, Counter[str]] = defaultdict(Counter)
    for found in Source(store, shown[0], PAGE).rows(_STATUSES):
        statuses[found["campaign_id"]][found["status"]] = found["n"]
    pending = {record.campaign_id: record.id for record in store.summaries.list(state="pending")}
    rows = [_campaign_row(Source(store, c, PAGE), statuses[c.id], pending.get(c.id)) for c in shown]
    blocks: list[Block] = [Table("The latest first", columns, rows, stacked=True)]
    if len(known) > MAX_CAMPAIGNS:
        blocks.append(Paragraph(f"The latest {MAX_CAMPAIGNS} of {len(known):,}."))
    return Page("Campaigns", [Part("campaigns", "Campaigns", blocks)], store.place)


def _campaign_row(source: Source, statuses: Counter[str], pending: int | None) -> list[Cell]:
    campaign = source.campaign
    models = campaign.settings.get("models") or [campaign.settings.get("model", "")]
    return [
        Ref("campaign", campaign.id, campaign.name),
        Tag(campaign.state, STATES[campaign.state]),
        Bar(source.finished, campaign.budget.trials),
        ", ".join(str(model) for model in models),
        f"{statuses.total()}, {statuses['confirmed']} confirmed" if statuses else None,
        Ref("summary", pending) if pending is not None else None,
        moment(campaign.created_at),
    ]


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
    table = Table("Trials", TRIAL_COLUMNS, [trial_row(record) for record in found[:MAX_ROWS]])
    blocks: list[Block] = [table if found else Paragraph("No such trials.")]
    further = found[MAX_ROWS - 1].number if len(found) > MAX_ROWS and not ranked else None
    crumbs = (Ref("campaign", campaign.id, campaign.name),)
    return Page(f"Trials of {campaign.name}", [Part("trials", "Trials", blocks)], crumbs=crumbs), further


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
        rows = [finding_row(record) for record in found]
        blocks = [Table(f"{len(found)} findings", FINDING_COLUMNS, rows, stacked=True)]
    if len(found) == MAX_ROWS:
        blocks.append(Paragraph(f"Only the first {MAX_ROWS} are shown: search with more words."))
    return Page(heading, [Part("findings", "Findings", blocks)])
