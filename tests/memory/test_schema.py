"""The migrations build exactly the tables that the code knows, on both databases, from every released revision."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from swarm.memory import schema, views
from swarm.memory.store import Store
from swarm.memory.tables import metadata

RELEASES = sorted((Path(__file__).parent / "releases").glob("*.db.gz"))


def test_migrated_schema_is_the_metadata(store):
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
        assert compare_metadata(context, metadata) == []


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
    path = tmp_path / "swarm.db"
    path.write_bytes(gzip.decompress(release.read_bytes()))
    with Store.open(path) as store:
        assert store.check() == []
        (campaign,) = store.campaigns.list()
        assert campaign.name == "released"
        trials = store.trials.list(campaign.id)
        assert [trial.state for trial in trials] == ["complete", "failed", "waiting"]
        assert trials[0].metrics["kld"].value == 0.1
        assert store.findings.search("plateau")[0].finding.evidence == (trials[0].id,)
        assert store.query("SELECT trial_id FROM best_per_model").rows == [(trials[0].id,)]
        lease = store.trials.claim_next(campaign.id, "upgraded")
        assert lease.trial_id == trials[2].id
