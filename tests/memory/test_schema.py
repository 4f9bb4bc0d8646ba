"""The migrations build exactly the tables that the code knows, on both databases, from every released revision."""

from __future__ import annotations

import gzip
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, insert, inspect, select

from swarm.experiments import identity
from swarm.experiments.protocols.base import protocol
from swarm.memory import schema, views
from swarm.memory.store import Store
from swarm.memory.tables import metadata

RELEASES = sorted((Path(__file__).parent / "releases").glob("0???.db.gz"))
FIRST = Path(__file__).parent / "releases" / "0.1.0.db.gz"
"""A campaign of 120 trials on two models by the code of release 0.1."""
POSTGRESQL = FIRST.with_name("0.1.0.postgresql.sql")
"""The tables that release 0.1 made on PostgreSQL."""


def differences(store):
    """What the tables of a store have beside or less than those that the code knows."""
    with store.database.read() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": schema.VERSION_TABLE,
                # Full text is made by hand: neither its tables nor its expression index are in the metadata.
                "include_name": lambda name, _kind, _parents: "findings_fts" not in str(name),
                "compare_type": True,
            },
        )
        return compare_metadata(context, metadata)


def test_a_new_store_has_the_tables_of_the_code(store):
    assert differences(store) == []


def test_sqlite_table_options_are_kept(store):
    if store.database.path is None:
        pytest.skip("a matter of SQLite")
    declared = {
        table.name for table in metadata.sorted_tables if table.dialect_options["sqlite"]["with_rowid"] is False
    }
    found = store.query(
        "SELECT name FROM sqlite_schema WHERE sql LIKE '%WITHOUT ROWID%' AND name NOT LIKE 'findings_fts%'"
    )
    assert {row[0] for row in found.rows} == declared


def test_views_are_there(store):
    with store.database.read() as connection:
        assert set(inspect(connection).get_view_names()) == set(views.VIEWS)


def test_revisions_are_numbered_without_gaps():
    assert schema.revisions() == tuple(f"{number:04d}" for number in range(1, len(schema.revisions()) + 1))


def test_every_revision_has_a_snapshot():
    assert [path.name.split(".")[0] for path in RELEASES] == list(schema.revisions())


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_store_of_every_release_opens_with_its_data(release, tmp_path):
    with Store.open(unpacked(release, tmp_path)) as store:
        assert store.check() == []
        (campaign,) = store.campaigns.list()
        assert campaign.name == "released"
        trials = store.trials.list(campaign.id)
        assert [trial.state for trial in trials] == ["complete", "failed", "waiting"]
        assert trials[0].metrics["kld"].value == 0.1
        assert store.findings.search("plateau")[0].finding.evidence == (trials[0].id,)
        assert store.query("SELECT trial_id FROM best_per_model").rows == [(trials[0].id,)]
        lease = store.queue.claim_next(campaign.id, "upgraded")
        assert lease.trial_id == trials[2].id


def test_trials_of_the_first_release_are_identified_by_versions(tmp_path):
    path = unpacked(FIRST, tmp_path)
    with sqlite3.connect(path) as connection:
        before = dict(connection.execute("SELECT id, fingerprint FROM trials"))
        # Two revisions of the code made the same experiment: trial 7 is trial 3 once more.
        connection.execute("UPDATE trials SET spec = (SELECT spec FROM trials WHERE id = 3) WHERE id = 7")
    connection.close()
    with Store.open(path) as store:
        assert store.check() == []
        assert differences(store) == []
        records = {record.id: record for record in store.trials.list()}
        front = store.query("SELECT trial_id FROM pareto").rows
        assert store.query("SELECT DISTINCT protocol_version FROM trials").rows == [(1,)]
        assert {tuple(row) for row in front} == {(i,) for i in front_of(path)}
    assert len(records) == 120
    assert records[3].fingerprint == before[3]
    for number, record in records.items():
        stands = protocol(record.spec.protocol).version == 1  # else what it measures has changed since
        assert record.outdated != stands
        assert number == 3 or (record.fingerprint == identity.fingerprint(record.spec)) == stands


def front_of(path):
    with sqlite3.connect(path) as connection:
        found = [row[0] for row in connection.execute("SELECT trial_id FROM front")]
    connection.close()
    return found


def test_postgresql_stores_of_the_first_release_are_upgraded(postgres_url, tmp_path):
    of_then = create_engine(f"sqlite:///{unpacked(FIRST, tmp_path)}")
    server = create_engine(postgres_url)
    tables = MetaData()
    with server.begin() as target:
        target.exec_driver_sql(POSTGRESQL.read_text())
    tables.reflect(server)
    with of_then.connect() as source, server.begin() as target:
        for table in tables.sorted_tables:
            rows = [dict(row) for row in source.execute(select(table)).mappings()]
            if rows and table.name != schema.VERSION_TABLE:
                target.execute(insert(table), rows)
    of_then.dispose()
    server.dispose()
    with Store.open(postgres_url) as store:
        assert differences(store) == []
        records = store.trials.list()
        assert len(records) == 120
        kept = [record for record in records if protocol(record.spec.protocol).version == 1]
        assert len(kept) > len(records) / 2
        assert all(record.fingerprint == identity.fingerprint(record.spec) for record in kept)
        assert [problem for problem in store.check() if "front" in problem] == []


def unpacked(release, folder):
    path = folder / "swarm.db"
    path.write_bytes(gzip.decompress(release.read_bytes()))
    return path


def test_trials_of_methods_that_are_not_installed_keep_their_fingerprints(tmp_path):
    path = unpacked(FIRST, tmp_path)
    with sqlite3.connect(path) as connection:
        before = connection.execute("SELECT id, fingerprint FROM trials WHERE id IN (5, 6)").fetchall()
        strange = "UPDATE trials SET spec = json_set(spec, '$.kv.key.method', 'strange') WHERE id IN (5, 6)"
        connection.execute(strange)
    connection.close()
    with Store.open(path) as store:
        assert store.query("SELECT id, fingerprint FROM trials WHERE id IN (5, 6)").rows == before
        assert store.check() == []
