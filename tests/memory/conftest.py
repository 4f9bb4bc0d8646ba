"""One store per test, on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from samples import add_trial, first_campaign, run_trial

from swarm.memory import schema
from swarm.memory.records import CampaignRecord, TrialRecord
from swarm.memory.store import Store
from swarm.memory.tables import metadata


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
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    if request.param == "sqlite":
        place = str(shutil.copy(request.getfixturevalue("empty_store"), tmp_path / "swarm.db"))
    else:
        place = request.getfixturevalue("postgres_store")
        empty(place)
    with Store.open(place) as opened:
        yield opened


@pytest.fixture
def url(store: Store) -> str:
    """Path or URL of the store."""
    return str(store.database.path or store.database.engine.url.render_as_string(hide_password=False))


@pytest.fixture
def campaign(store: Store) -> CampaignRecord:
    return first_campaign(store)


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
def add(store: Store) -> Callable[..., TrialRecord]:
    """Add the next trial of the campaign."""
    return partial(add_trial, store, first_campaign(store).id)


@pytest.fixture
def run(store: Store) -> Callable[..., TrialRecord]:
    """Add the next trial and complete it with the given objectives."""
    return partial(run_trial, store, first_campaign(store).id)
