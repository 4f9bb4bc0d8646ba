"""What an agent outside may look up. Read-only and bounded; texts come from a store and are data, never orders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field

from swarm.kernels.errors import UsageError
from swarm.memory.store import Store
from swarm.memory.views import VIEWS
from swarm.orchestrator.views.choices import FINDING_STATUSES, TRIAL_STATES, check_choice
from swarm.orchestrator.views.findings import finding_row
from swarm.orchestrator.views.recommendation import recommendation
from swarm.orchestrator.views.shown import shown
from swarm.orchestrator.views.source import Source
from swarm.orchestrator.views.status import status
from swarm.orchestrator.views.summaries import summary_row
from swarm.orchestrator.views.trials import trial_row

MAX_ROWS = 200
MAX_QUERY_SECONDS = 5.0
MAX_ANSWER_CHARS = 60_000
"""Characters of an answer, about; what is beyond is left out and said to be."""

Kind = Literal["trial", "finding", "proposal", "summary"]
Limit = Annotated[int, Field(ge=1, le=MAX_ROWS, description="At most so many rows.")]


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
        """How the campaign stands: trials, budget and spend, best configuration per model, latest events."""
        with self._read() as source:
            return dict(status(source))

    def views(self) -> list[dict[str, str]]:
        """The views that `query` can ask, with what each answers and an example."""
        return [{"view": name, "answers": view.summary, "example": view.example} for name, view in VIEWS.items()]

    def query(
        self, sql: Annotated[str, Field(max_length=10_000, description="One SELECT.")], limit: Limit = 50
    ) -> dict[str, Any]:
        """Ask the shared memory in SQL; nothing can be written."""
        with Store.read(self._url) as store:
            answer = store.query(sql, limit=_bounded(limit), seconds=MAX_QUERY_SECONDS)
        rows, cut = _fitting(answer.records())
        return {"rows": rows, "more": answer.truncated or cut}

    def trials(
        self,
        model: Annotated[str | None, Field(description="Only this model.")] = None,
        state: Annotated[str | None, Field(description="Only this state, such as complete or failed.")] = None,
        best: Annotated[bool, Field(description="Those with the smallest KLD, in place of the newest.")] = False,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """List the trials of the campaign."""
        check_choice("state", state, TRIAL_STATES)
        chosen: Any = state
        with self._read() as source:
            records = source.store.trials.list(
                source.campaign.id,
                model=model,
                protocol="quality" if best else None,
                state=chosen,
                best="kld" if best else None,
                arrays=False,
            )
        if not best:
            records.reverse()
        rows, cut = _fitting([dict(trial_row(record)) for record in records[: _bounded(limit)]])
        return {"trials": rows, "more": cut or len(records) > len(rows)}

    def findings(
        self,
        words: Annotated[str | None, Field(max_length=400, description="Only those that hold these words.")] = None,
        status: Annotated[str | None, Field(description="hypothesis, confirmed or refuted.")] = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """List what was found: typed claims with effect sizes, confidence intervals and evidence."""
        check_choice("status", status, FINDING_STATUSES)
        most = _bounded(limit)
        with self._read() as source:
            found = source.store.findings
            records = found.search(words, source.campaign.id, limit=most) if words else source.findings
        records = [record for record in records if status in (None, record.finding.status)]
        rows, cut = _fitting([finding_row(record) for record in records[:most]])
        return {"findings": rows, "more": cut or len(records) > len(rows)}

    def summaries(self) -> list[dict[str, Any]]:
        """List the summaries that the agents wrote and how people reviewed them."""
        with self._read() as source:
            rows = [summary_row(record, source.campaign.name) for record in source.summaries]
        return [{key: value for key, value in row.items() if key not in ("text", "evidence")} for row in rows]

    def show(self, kind: Kind, identity: Annotated[int, Field(ge=1, description="Its number.")]) -> dict[str, Any]:
        """Show one trial, finding, proposal or summary in full."""
        with Store.read(self._url) as store:
            return shown(store, kind, identity)

    def recommend(
        self,
        model: Annotated[str, Field(max_length=200, description="A model of the store, or a bundled one.")],
        bits: Annotated[float | None, Field(gt=0, le=32, description="Most bits per value.")] = None,
        memory: Annotated[float | None, Field(gt=0, description="In its place GB for weights and cache.")] = None,
        context: Annotated[int | None, Field(ge=1, description="Tokens to hold, with memory.")] = None,
        tolerance: Annotated[float | None, Field(gt=0, description="Most KLD in nats; the cheapest is chosen.")] = None,
    ) -> dict[str, Any]:
        """Say which configuration to use, its expected loss with a 90% interval, the runner-up, what is not tested."""
        with Store.read(self._url) as store:
            found = recommendation(store, model, bits=bits, memory=memory, context=context, tolerance=tolerance)
        return found.model_dump(mode="json")

    @contextmanager
    def _read(self) -> Iterator[Source]:
        with Store.read(self._url) as store:
            yield Source(store, store.campaigns.get(self._campaign))


def _bounded(limit: int) -> int:
    if not 1 <= limit <= MAX_ROWS:
        raise UsageError(f"limit {limit} is out of range.", f"Ask for 1 to {MAX_ROWS} rows.")
    return limit


def _fitting(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """As many rows as an answer has room for, and whether any were left out."""
    room = MAX_ANSWER_CHARS
    for place, row in enumerate(rows):
        room -= len(str(row))
        if room < 0:
            return rows[: max(place, 1)], place > 0 or len(rows) > 1
    return rows, False
