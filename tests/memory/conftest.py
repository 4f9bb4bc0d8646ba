"""One store per test, on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarm.memory import schema
from swarm.memory.records import Budget, CampaignRecord, TrialRecord
from swarm.memory.store import Store
from swarm.memory.tables import metadata


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "swarm.db"
    Store.open(path, create=True).close()
    return path


@pytest.fixture(scope="session")
def postgres_store(postgres_server) -> Iterator[str]:
    """URL of one migrated database for all tests: emptying it is much cheaper than making another."""
    url = postgres_server.create_database()
    Store.open(url, create=True).close()
    yield url
    postgres_server.drop_database(url)


def empty(url: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
        connection.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = '{schema.revisions()[-1]}'")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Path or URL of an empty store."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "swarm.db")
        return str(tmp_path / "swarm.db")
    place = request.getfixturevalue("postgres_store")
    empty(place)
    return place


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def campaign(store: Store) -> CampaignRecord:
    return store.campaigns.create("first", {"workers": 2}, Budget(trials=1000), seed=7)


@pytest.fixture
def pass_time(store: Store) -> Callable[[float], None]:
    """Let the database's clock run ahead: for leases that is the same as all of their times lying further back."""
    from sqlalchemy import text

    def run_ahead(seconds: float) -> None:
        with store.database.write() as connection:
            for statement in (
                "UPDATE trials SET lease_at = lease_at - :s, lease_expires = lease_expires - :s",
                "UPDATE campaigns SET turn_at = turn_at - :s, turn_expires = turn_expires - :s",
                "UPDATE reservations SET expires = expires - :s",
            ):
                connection.execute(text(statement), {"s": seconds})

    return run_ahead


@pytest.fixture
def add(store: Store, campaign: CampaignRecord) -> Callable[..., TrialRecord]:
    """Add the next trial of the campaign."""
    from samples import proposal

    def add_next(**fields: object) -> TrialRecord:
        number = store.campaigns.get(campaign.id).next_number
        fields.setdefault("seed", number)
        return store.propose(campaign.id, number, proposal(**fields))

    return add_next


@pytest.fixture
def run(store: Store, add: Callable[..., TrialRecord]) -> Callable[..., TrialRecord]:
    """Add the next trial and complete it with the given objectives."""
    from samples import complete, measurement

    def run_next(
        kld: float = 0.1, bits_measured: float = 4.5, metrics: dict[str, float] | None = None, **fields: object
    ):
        trial = add(**fields)
        lease = store.queue.claim(trial.id, "worker")
        assert lease is not None
        complete(store, lease, measurement(kld, bits_measured, **(metrics or {})))
        return store.trials.get(trial.id)

    return run_next
