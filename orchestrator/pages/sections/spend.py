"""What was spent of the budget, by whom, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from swarm.orchestrator.console import duration
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Columns, Num, Table
from swarm.orchestrator.views.source import Source, TooMuchError

TITLE = "Spend"
PLACE = 100
KINDS = {
    "trials": "trials",
    "seconds": "wall time",
    "worker_seconds": "worker time",
    "tokens": "LLM tokens",
    "usd": "USD",
}
MAX_POINTS = 400

_ROLES = """SELECT kind, role, spent FROM spend WHERE campaign_id = {campaign} AND role <> '' AND spent > 0
AND kind IN ('tokens', 'usd', 'worker_seconds') ORDER BY kind, spent DESC"""

_CALLS = """SELECT role, model, outcome, COUNT(*) AS calls, SUM(tokens_in) AS tokens_in, SUM(tokens_out) AS tokens_out,
    SUM(usd) / 1e6 AS usd, SUM(seconds) AS seconds
FROM agent_calls WHERE campaign_id = {campaign} GROUP BY role, model, outcome ORDER BY role, model, outcome"""

_PROTOCOLS = """SELECT protocol, COUNT(*) AS trials, SUM(seconds) AS seconds FROM trials
WHERE campaign_id = {campaign} GROUP BY protocol ORDER BY protocol"""

_ENDS = """SELECT finished_at FROM trials WHERE campaign_id = {campaign} AND finished_at IS NOT NULL
ORDER BY finished_at"""


def blocks(source: Source) -> Sequence[Block]:
    """Accounts, roles, calls, protocols, and a curve of finished trials."""
    found: list[Block] = [_accounts(source)]
    with suppress(TooMuchError):  # the ledger says what was spent, of a store of any size
        found += [*_pace(source), *_protocols(source)]
    return [*found, *_calls(source), *_roles(source)]


def _accounts(source: Source) -> Table:
    accounts = source.store.ledger.totals(source.campaign.id)
    rows = [
        [name, _amount(kind, a.spent), _amount(kind, a.reserved), "no limit" if a.cap is None else _amount(kind, a.cap)]
        for kind, name in KINDS.items()
        if (a := accounts.get(kind)) is not None
    ]
    return Table("The ledger", ["What", Num("Spent"), Num("Reserved"), Num("Budget")], rows)


def _amount(kind: str, value: float) -> str:
    if kind.endswith("seconds"):
        return duration(value)
    return f"{value:,.4f}" if kind == "usd" else f"{value:,.0f}"


def _calls(source: Source) -> list[Table]:
    columns: Columns = {
        "Role": "role",
        "Model": "model",
        "Outcome": "outcome",
        Num("Calls"): "calls",
        Num("Tokens in"): "tokens_in",
        Num("Tokens out"): "tokens_out",
        Num("USD"): lambda row: f"{row['usd']:.4f}",
        Num("Time"): lambda row: duration(row["seconds"]),
    }
    rows = source.rows(_CALLS)
    return [Table.of("Calls of language models", rows, columns)] if rows else []


def _roles(source: Source) -> list[Table]:
    columns: Columns = {
        "Role": "role",
        "What": lambda row: KINDS[row["kind"]],
        Num("Spent"): lambda row: _amount(row["kind"], row["spent"]),
    }
    rows = source.rows(_ROLES)
    return [Table.of("By role", rows, columns, folded=True)] if rows else []


def _protocols(source: Source) -> list[Table]:
    columns: Columns = {
        "Protocol": "protocol",
        Num("Trials"): "trials",
        Num("Worker time"): lambda row: duration(row["seconds"]),
    }
    rows = source.rows(_PROTOCOLS)
    return [Table.of("By protocol", rows, columns)] if rows else []


def _pace(source: Source) -> list[Chart]:
    ends = [datetime.fromisoformat(str(row["finished_at"])) for row in source.rows(_ENDS)]
    if len(ends) < 2 or len(ends) == source.bounds.rows:
        return []
    start = source.campaign.created_at.replace(tzinfo=ends[0].tzinfo)
    minutes = [(end - start).total_seconds() / 60 for end in ends]
    step = max(1, len(ends) // MAX_POINTS)
    kept: list[Any] = sorted({*range(0, len(ends), step), len(ends) - 1})
    x, y = [minutes[i] for i in kept], [i + 1 for i in kept]
    rate = (len(ends) - 1) / max(minutes[-1] - minutes[0], 1e-9)
    return [
        Chart(
            "Trials finished over time",
            f"{len(ends)} trials finished in {minutes[-1]:.1f} minutes, {rate:.1f} per minute on average.",
            [charts.points("trials", x, y, mode="lines")],
            charts.layout(charts.axis("minutes since the launch"), charts.axis("trials"), 260),
        )
    ]
