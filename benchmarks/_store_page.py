"""The page of the store's benchmark: rates beside the peer's, claims, growth, and the goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks import _frame

RATE, QUICK_MS = 2_000, 100.0
"""The goals: results/s batched on SQLite, and milliseconds of the queries below at the largest size."""
QUICK = ("best per model at 4.6 bits", "Pareto front of a model")

ABOUT = """\
Ours keeps of a trial its specification, proposal, reservation, lease, nine metrics with their standard errors, one
series of eight numbers, the Pareto front of its group, and the ledger. The peer is Optuna's `RDBStorage` on SQLite
with its random sampler: six parameters, two objectives, the other seven metrics and the series as user attributes; no
leases, no ledger, no standard errors. It is used in two ways: `ask`, six `suggest`, eight `set_user_attr` and `tell`,
as an objective function does; and `add_trials` of finished trials, the least it can do. It has no batches. All files
are in the temporary folder; every transaction is committed to the disk (SQLite: `synchronous=FULL`; PostgreSQL:
`fsync`).
"""


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    parts = [
        _frame.heading(record, "The store: results per second, and queries at a million trials"),
        ABOUT,
        "## SQLite beside Optuna\n",
        _beside(results),
    ]
    for name, found in results["databases"].items():
        parts += [f"## {name}\n", *_database(results["batch"], found)]
    return "\n".join((*parts, "## The goals\n", "\n".join(_goals(results)) + "\n"))


def _beside(results: _frame.Results) -> str:
    ours, peer = results["databases"]["SQLite"], results["peer"]
    batch, single = f"batches of {results['batch']}", "one by one"
    rows = [
        ("a trial from proposal to result", single, "ask to tell", *_pair(ours["single"], peer["single"], "trials")),
        ("a result recorded", single, "attributes, tell", *_pair(ours["single"], peer["single"], "results")),
        ("a trial created and claimed", single, "ask, suggest", *_pair(ours["single"], peer["single"], "created")),
        ("a result recorded", batch, "attributes, tell", *_pair(ours["batched"], peer["single"], "results")),
        ("a trial from proposal to result", batch, "`add_trials`", *_pair(ours["batched"], peer["whole"], "trials")),
    ]
    columns = ("what", "ours", "Optuna", "ours, per s", "Optuna, per s", "ours is")
    smallest = min(ours["growth"], key=int)
    front = median(ours["growth"][smallest]["queries_ms"][QUICK[1]])
    return (
        _frame.table(columns, rows)
        + f"\n{ours['batched_trials']} trials in batches and {ours['single_trials']} one by one; Optuna got "
        f"{peer['single_trials']} and, by `add_trials`, {peer['whole_trials']}. Medians over the rounds; ratios with "
        f"their extremes over all pairs of rounds ({len(peer['whole']['trials'])}). The Pareto front of {smallest} "
        f"trials takes ours {front:.1f} ms (of one model), and "
        f"`best_trials` of a study of {peer['whole_trials']} {median(peer['whole']['front, ms']):.0f} ms.\n"
    )


def _pair(ours: dict[str, list[float]], peer: dict[str, list[float]], name: str) -> tuple[str, str, str]:
    faster = _frame.ratio(ours[name], peer[name])
    return f"{median(ours[name]):,.0f}", f"{median(peer[name]):,.0f}", _frame.times(faster)


def _database(batch: int, found: _frame.Results) -> Iterator[str]:
    batched, claims = found["batched"], found["claims"]
    rows = [
        (f"{name}, batches of {batch}", _spread(batched[name]), f"{median(batched[f'{name}, CPU us']) / 1000:.2f} ms")
        for name in ("proposals", "claims", "results")
    ]
    single = found["single"]
    rows += [(f"{name}, one by one", _spread(single[name]), "") for name in ("created", "results")]
    rows.append(("trials read back", _spread(batched["read"]), ""))
    yield _frame.table(("", "per second", "CPU each"), rows)
    yield f"{median(batched['bytes']):,.0f} bytes per trial are written by these batches.\n"
    yield (
        f"{claims['processes']} processes claim {claims['offered']:,} trials, each claim a transaction: "
        f"{claims['claims']:,} claims, {claims['rate']:,.0f} per second, {claims['least']} to {claims['most']} by one "
        "process.\n"
    )
    growth = found["growth"]
    questions = next(iter(growth.values()))["queries_ms"]
    rows = [(name, *(_spread(one["queries_ms"][name]) for one in growth.values())) for name in questions]
    rows.append(("bytes per trial", *(f"{one['bytes']:,.0f}" for one in growth.values())))
    yield _frame.table(("ms", *(f"{int(count):,} trials" for count in growth)), rows)


def _spread(values: Sequence[float]) -> str:
    digits = 0 if median(values) >= 100 else 1
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _goals(results: _frame.Results) -> Iterator[str]:
    ours: dict[str, Any] = results["databases"]["SQLite"]
    rate = median(ours["batched"]["results"])
    yield _frame.said(f"at least {RATE:,} results/s batched on SQLite", rate >= RATE, f"{rate:,.0f}")
    for name, found in results["databases"].items():
        claims = found["claims"]
        said = f"{claims['processes']} processes claiming {claims['offered']:,} trials end with exactly as many, {name}"
        yield _frame.said(said, claims["claims"] == claims["offered"], f"{claims['claims']:,}")
    large = max(ours["growth"], key=int)
    for name in QUICK:
        took = median(ours["growth"][large]["queries_ms"][name])
        said = f"{name} at {int(large):,} trials within {QUICK_MS:.0f} ms"
        yield _frame.said(said, took <= QUICK_MS, f"{took:.1f} ms")
