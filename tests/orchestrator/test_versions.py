"""Other code is no other experiment, and a raised version is one: what a campaign makes of both."""

import gzip
import json
import shutil
import signal
from pathlib import Path

import pytest
from samples import complete, finding, measurement, proposal

from swarm.experiments import identity
from swarm.experiments.protocols.base import protocol
from swarm.kernels.spec import KVSpec
from swarm.memory.errors import OlderStoreError
from swarm.memory.records import Budget
from swarm.memory.store import Store
from swarm.orchestrator.pages import trial

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / "tests" / "memory" / "releases" / "0.1.0.db.gz"


@pytest.fixture
def copy(tmp_path):
    """A copy of our code, to be changed."""
    for name in (".import", "kernels", "experiments", "memory", "agents", "orchestrator"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, symlinks=True)
    return tmp_path / "copy"


@pytest.fixture
def resumed(tmp_path, start, tiny_models, copy):
    """Begins a campaign of 30 trials, and ends it by the copy; returns what was complete in between."""
    path = tmp_path / "swarm.db"

    def run():
        launched = start(
            "launch", "--models", tiny_models["llama"], "--context", "96", "--budget", "30", "--workers", "1"
        )
        launched.wait_for_trials(path, 6)
        assert launched.end(signal.SIGINT, group=True)[0] == 130
        with Store.open(path, readonly=True) as store:
            kept = store.trials.list(state="complete")
        code, _, err = start("resume", env={"PYTHONPATH": str(copy / ".import")}).end()
        assert code == 0, err
        return path, kept

    return run


@pytest.mark.cluster  # two real campaigns
def test_a_campaign_goes_on_under_other_code_and_runs_nothing_twice(copy, resumed):
    with (copy / "kernels" / "codec.py").open("a") as file:
        file.write("\n# Another remark.\n")
    path, kept = resumed()
    with Store.open(path, readonly=True) as store:
        records = store.trials.list()
        assert store.check() == []
    assert [record.number for record in records] == list(range(30))
    assert len({record.fingerprint for record in records}) == len({record.spec for record in records}) == 30
    assert len({record.environment.code_version for record in records if record.environment}) == 2
    assert not any(record.outdated for record in records)
    assert [records[record.number] for record in kept] == kept


@pytest.mark.cluster  # two real campaigns
def test_a_campaign_goes_on_under_a_raised_version_and_keeps_its_results_apart(copy, resumed):
    protocol = copy / "experiments" / "protocols" / "quality.py"
    protocol.write_text(protocol.read_text().replace("    references = (", "    version = 2\n    references = ("))
    path, kept = resumed()
    with Store.open(path, readonly=True) as store:
        assert store.check() == []
        records = store.trials.list()
        versions = dict(store.query("SELECT id, protocol_version FROM trials WHERE protocol = 'quality'").rows)
        front = store.query("SELECT protocol_version FROM pareto WHERE protocol = 'quality'").rows
    assert [record.number for record in records] == list(range(30))
    assert [records[record.number] for record in kept] == kept
    of_kept = {record.id for record in kept}
    assert {versions[i] for i in versions.keys() & of_kept} == {1}
    assert {versions[i] for i in versions.keys() - of_kept} == {2}
    assert {row[0] for row in front} == {1, 2}
    assert any(versions.get(r.id) == 2 and r.arm == "defaults" and r.spec.kv == KVSpec() for r in records)
    # This process has the older version: to it, the others are not its own.
    assert {record.id for record in records if record.outdated} == versions.keys() - of_kept


@pytest.fixture
def released(tmp_path):
    """A store of release 0.1, whose trials were identified by the hash of its code."""
    path = tmp_path / "swarm.db"
    path.write_bytes(gzip.decompress(RELEASE.read_bytes()))
    return path


def test_claims_of_the_first_release_stand(released, cli):
    with Store.open(released) as store:
        assert len(store.findings.list(status="confirmed")) == 1
        assert store.check() == []
        for record in store.trials.list(arrays=False):
            stands = protocol(record.spec.protocol).version == 1  # else what it measures has changed since
            assert (record.fingerprint == identity.fingerprint(record.spec)) == stands
            assert record.outdated != stands
    done = cli("findings", "--check", "--store", str(released), "--json")
    changed = json.loads(done.out)["changed"]
    # Contrasts are judged more strictly since: by text windows in pairs.
    assert {row["stored"] for row in changed} == {"hypothesis"}


def test_an_older_store_is_upgraded_by_the_first_command_that_reads_it(released, cli):
    with pytest.raises(OlderStoreError, match="older schema 0001"):
        Store.open(released, readonly=True)
    done = cli("trials", "--store", str(released), "--json")
    assert (done.code, len(json.loads(done.out)) > 0) == (0, True)
    with Store.open(released, readonly=True) as store:
        assert store.check() == []


def test_results_of_an_older_version_are_shown_and_marked(cli, tmp_path, raise_version):
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=5), 0)
        for number in range(2):
            if number:
                assert "version" not in cli("trials").out.partition("\n")[0].split()
                raise_version(type(protocol("quality")))
            record = store.propose(campaign.id, number, proposal(number))
            complete(store, store.queue.claim(record.id, "me"), measurement())
        store.findings.upsert(campaign.id, finding(1))
        old, new = (trial.page(store, identity).parts[0].blocks[0].shown for identity in (1, 2))
    assert [row["outdated"] for row in json.loads(cli("trials", "--json").out)] == [True, False]
    assert [line.split()[-1] for line in cli("trials").out.splitlines()] == ["version", "older", "present"]
    assert "an older version of its protocol" in cli("show", "trial", "1").out
    assert "older version" not in cli("show", "trial", "2").out
    assert cli("show", "finding", "1").out.splitlines()[-1].split()[-1] == "older"
    assert (old["State"].text, new["State"].text) == ("complete, older version", "complete")
    assert "older version" in old["Outdated"]
    assert "Outdated" not in new
