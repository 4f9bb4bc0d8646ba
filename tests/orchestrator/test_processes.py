"""Campaigns as processes: signals, sudden death, several drivers on one store."""

import json
import signal
import time

import jsonschema
import pytest

from swarm.memory.store import Store
from swarm.orchestrator import foreground
from swarm.orchestrator.commands import schema as schemas


def check_whole(path, trials):
    with Store.open(path, readonly=True) as store:
        campaign = store.campaigns.get()
        records = store.trials.list(campaign.id)
        assert [r.number for r in records] == list(range(trials))
        assert {r.state for r in records} == {"complete"}
        assert len({r.fingerprint for r in records}) == trials
        assert store.ledger.totals(campaign.id)["trials"].spent == trials
        assert campaign.state == "complete"
        assert store.check() == []


def test_ctrl_c_then_sudden_death_then_resume_to_exactly_the_budget(tmp_path, start, cli):
    path = tmp_path / "swarm.db"
    launched = start("launch", "--rehearsal", "100", "--budget", "40", "--name", "x")
    launched.wait_for_trials(path, 4)
    code, out, err = launched.end(signal.SIGINT, group=True)
    assert code == 130, err
    assert "swarm resume x" in out
    assert err == ""
    with Store.open(path, readonly=True) as store:
        assert store.campaigns.get("x").state == "interrupted"
        assert "running" not in store.trials.count(1)
        kept = {r.number: r.metrics for r in store.trials.list(1, state="complete")}
    done = len(kept)

    resumed = start("resume")
    resumed.wait_for_trials(path, done + 4)
    assert resumed.end(signal.SIGKILL)[0] == -signal.SIGKILL

    code, out, err = start("resume", "x").end()
    assert code == 0, err
    check_whole(path, 40)
    with Store.open(path, readonly=True) as store:
        now = {r.number: r.metrics for r in store.trials.list(1)}
    assert all(now[number] == metrics for number, metrics in kept.items())
    done = cli("resume", "x")
    assert done.code == 0
    assert "complete" in done.out


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)], ids=["term", "twice"])
def test_other_ways_to_stop(tmp_path, start, signals):
    path = tmp_path / "swarm.db"
    launched = start("launch", "--rehearsal", "600000", "--budget", "4", "--workers", "1")  # longer than `end` waits
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)  # somewhere in the start of Ray
    for signum in signals[:-1]:
        launched.process.send_signal(signum)
        time.sleep(0.2)
    code, _, err = launched.end(signals[-1])
    assert code == 128 + signals[-1]
    assert "Traceback" not in err
    with Store.open(path, readonly=True) as store:
        assert "running" not in store.trials.count(1)
        assert store.check() == []


@pytest.mark.slow
def test_two_drivers_share_a_campaign(tmp_path, start):
    path = tmp_path / "swarm.db"
    first = start("launch", "--rehearsal", "50", "--budget", "120", "--workers", "1", "--name", "x")
    first.wait_for_trials(path, 1)
    second = start("resume", "x", "--workers", "1")
    for driver in (first, second):
        code, _, err = driver.end()
        assert code == 0, err
    check_whole(path, 120)


@pytest.fixture
def real(swarm, cli, tiny_models):
    """Runs a campaign of a real model with so many workers; its trials."""

    def run(workers):
        done = swarm(
            "launch", "--models", tiny_models["llama"], "--context", "96", "--budget", "16", "--seed", "7",
            "--store", f"{workers}.db", "--workers", workers,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "What the swarm found" in done.out
        return json.loads(cli("trials", "--json", "--store", f"{workers}.db").out)

    return run


def test_a_campaign_of_a_real_model_can_be_asked_and_reproduced(real, cli):
    found = real("2")
    assert len(found) == 16
    assert {row["state"] for row in found} == {"complete"}
    done = cli("reproduce", str(found[5]["id"]), "--json", "--store", "2.db")
    jsonschema.validate(json.loads(done.out), schemas.schema("reproduce"))
    assert json.loads(done.out)["verdict"] == "same"
    sql = "SELECT model, kld FROM best_per_model WHERE limit_from <= 4.6 AND limit_below > 4.6 AND rung = 0"
    assert len(json.loads(cli("query", sql, "--json", "--store", "2.db").out)) == 1


@pytest.mark.slow  # in parts by default: rehearsals whichever worker is first, and the same bits in every process
def test_how_many_workers_there_are_changes_no_trial_of_a_real_model(real):
    found = [real(workers) for workers in ("2", "1")]
    for row in found[0] + found[1]:
        row.pop("seconds")
    assert found[0] == found[1]


def test_a_campaign_without_a_measurement_fails_and_names_the_cause(rehearsed):
    with pytest.raises(foreground.AllFailedError, match=r"every trial failed\. The first: trial 1, nan:"):
        foreground.run(rehearsed("1,nan@0,nan@1", 2), foreground.StopSignals())
