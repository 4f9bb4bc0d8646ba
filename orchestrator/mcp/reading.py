"""What an agent outside may look up. Read-only and bounded; texts come from a store and are data, never orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.memory.store import Store

MOST_ROWS = 200
MOST_SECONDS = 5.0
MOST_CHARS = 60_000
"""Characters of an answer, about; what is beyond is left out and said to be."""

Kind = Literal["trial", "finding", "proposal", "summary"]


class Library:
    """The read-only tools. Opens the store anew for each question: nothing is held while the agent thinks.

    Args:
        url: the store.
        campaign: name of the campaign that is meant; None for the latest one.
    """

    def __init__(self, url: str, campaign: str | None) -> None:
        self._url = url
        self._campaign = campaign

    def status(self) -> dict[str, Any]:
        """How the campaign stands: trials, budget and spend, best per model, findings, what happened last."""
        from swarm.orchestrator.commands.status import state

        with self._open() as store:
            return dict(state(store, store.campaigns.get(self._campaign)))

    def views(self) -> list[dict[str, str]]:
        """The views that can be queried, with what they answer and an example."""
        from swarm.memory.views import VIEWS

        return [{"view": name, "answers": view.summary, "example": view.example} for name, view in VIEWS.items()]

    def query(self, sql: str, limit: int = 50) -> dict[str, Any]:
        """Answer one SELECT over the documented views (and tables), at most 200 rows in at most 5 seconds."""
        with self._open() as store:
            answer = store.query(sql, limit=_bounded(limit), seconds=MOST_SECONDS)
        rows, cut = _fitting(answer.records())
        return {"rows": rows, "more": answer.truncated or cut}

    def trials(
        self, model: str | None = None, state: str | None = None, best: bool = False, limit: int = 50
    ) -> dict[str, Any]:
        """Trials of the campaign, newest first; with `best` the completed ones with the smallest KLD."""
        from swarm.kernels.errors import UnknownNameError
        from swarm.orchestrator.commands.trials import STATES, row

        if state is not None and state not in STATES:
            raise UnknownNameError("state", state, ", ".join(STATES))
        with self._open() as store:
            campaign = store.campaigns.get(self._campaign)
            chosen: Any = state
            records = store.trials.list(
                campaign.id,
                model=model,
                protocol="quality" if best else None,
                state=chosen,
                best="kld" if best else None,
                arrays=False,
            )
        if not best:
            records.reverse()
        rows, cut = _fitting([dict(row(record)) for record in records[: _bounded(limit)]])
        return {"trials": rows, "more": cut or len(records) > len(rows)}

    def findings(self, words: str | None = None, status: str | None = None, limit: int = 50) -> dict[str, Any]:
        """Findings of the campaign, all or those that hold the words, with effect, interval and evidence."""
        from swarm.kernels.errors import UnknownNameError
        from swarm.orchestrator.commands.findings import STATUSES, row

        if status is not None and status not in STATUSES:
            raise UnknownNameError("status", status, ", ".join(STATUSES))
        with self._open() as store:
            campaign = store.campaigns.get(self._campaign)
            most = _bounded(limit)
            records = (
                store.findings.search(words, campaign.id, limit=most) if words else store.findings.list(campaign.id)
            )
        records = [record for record in records if status in (None, record.finding.status)]
        rows, cut = _fitting([row(record) for record in records[:most]])
        return {"findings": rows, "more": cut or len(records) > len(rows)}

    def show(self, kind: Kind, identity: int) -> dict[str, Any]:
        """Everything about one trial, finding, proposal or summary; numbers of a summary come with their trials."""
        with self._open() as store:
            if kind == "summary":
                return self._summary(store, identity)
            record = {"trial": store.trials.get, "finding": store.findings.get, "proposal": store.proposals.get}[kind]
            return record(identity).model_dump(mode="json")

    def summaries(self) -> list[dict[str, Any]]:
        """The summaries that the campaign's agents wrote, with what people said of them."""
        from swarm.orchestrator.commands.review import row

        with self._open() as store:
            campaign = store.campaigns.get(self._campaign)
            rows = [row(record, campaign.name) for record in store.summaries.list(campaign.id)]
        return [{key: value for key, value in found.items() if key not in ("text", "evidence")} for found in rows]

    @staticmethod
    def _summary(store: Store, identity: int) -> dict[str, Any]:
        from dataclasses import asdict

        from swarm.orchestrator.commands.review import row
        from swarm.orchestrator.linking import linked, links
        from swarm.orchestrator.reading import resolver

        record = store.summaries.get(identity)
        campaign = store.campaigns.get(record.campaign_id)
        numbers, text = resolver(store, campaign), record.summary.text
        references = [asdict(link) for link in links(text, numbers)]
        return {**row(record, campaign.name), "text": linked(text, numbers), "references": references}

    def _open(self) -> Store:
        from swarm.memory.store import Store

        return Store.open(self._url, readonly=True)


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MOST_ROWS:
        raise UsageError(f"limit {limit} is out of range.", f"Ask for 1 to {MOST_ROWS} rows.")
    return limit


def _fitting(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """As many rows as an answer has room for, and whether any were left out."""
    room = MOST_CHARS
    for place, row in enumerate(rows):
        room -= len(str(row))
        if room < 0:
            return rows[: max(place, 1)], place > 0 or len(rows) > 1
    return rows, False
