"""Findings in a store are judged again from its measurements: a falsified one makes what rests on it fall."""

from __future__ import annotations

import json
import sqlite3

import pytest
from samples import ENVIRONMENT, complete

from swarm.agents.analysis.base import analyse
from swarm.agents.analysis.judge import judge
from swarm.agents.analysis.verify import elsewhere
from swarm.agents.history import History
from swarm.experiments.identity import fingerprint
from swarm.experiments.protocols.base import protocol
from swarm.experiments.spec import Measurement, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Budget, Proposal
from swarm.memory.store import Store
from swarm.orchestrator.cli import run

PLAIN = QuantSpec(method="affine", bits=4)
TURNED = QuantSpec(method="affine", bits=4, rotation="hadamard")
CACHES = [KVSpec(key=key, value=value) for key in (TURNED, PLAIN) for value in (TURNED, PLAIN)]


def law(spec) -> float:
    return (-0.9 if spec.model == "alpha" else 0.9) * (spec.kv.key.rotation == "hadamard")


def measure(store, name, lab, infos, device="cpu") -> None:
    """A campaign with trials on two models, replicated, and the findings in them."""
    identity = {"models": {"alpha": "1", "beta": "2"}, "corpus": "3", "device": device}
    told = {"models": ["alpha", "beta"], "context": 512, "identity": identity}
    campaign = store.campaigns.create(name, told, Budget(trials=24), 0)
    for info in infos:
        store.models.register(info)
    specs = [
        TrialSpec(model=info.name, kv=kv, replicate=r, seed=r, device=device)
        for r in range(3)
        for info in infos
        for kv in CACHES
    ]
    for number, spec in enumerate(specs):
        trial = store.propose(campaign.id, number, Proposal(spec=spec, proposer="test"))
        metrics, arrays = lab.measure(spec)
        measured = Measurement(metrics=tuple(metrics.values()), arrays=arrays, environment=ENVIRONMENT)
        complete(store, store.queue.claim(trial.id, "test"), measured)
    history = History.before(len(specs), store.trials.list(campaign.id), 0)
    named = {info.name: info for info in infos}
    for finding in judge(analyse(history, named), [], history, named):
        store.findings.upsert(campaign.id, finding)


@pytest.fixture
def path(tmp_path, make_lab, infos):
    """A store with such a campaign."""
    place = tmp_path / "swarm.db"
    with Store.open(place, create=True) as store:
        measure(store, "x", make_lab(law=law), infos)
        assert {f.finding.kind for f in store.findings.list(status="confirmed")} >= {"contrast", "sensitivity"}
    return place


def checked(path, capsys) -> tuple[int, dict]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        run(["findings", "--check", "--store", str(path), "--json"])
    return int(ending.value.code or 0), json.loads(capsys.readouterr().out)


def test_findings_stand_on_their_measurements_and_fall_with_them(path, capsys) -> None:
    code, told = checked(path, capsys)
    assert (code, told["changed"], told["fell"], told["outdated"]) == (0, [], 0, 0)
    with Store.open(path, readonly=True) as store:
        contrast = next(f for f in store.findings.list(status="confirmed") if f.finding.kind == "contrast")
        unharmed = {f.id for f in store.findings.list() if contrast.finding.evidence[0] not in f.finding.evidence}
    with sqlite3.connect(path) as database:
        database.execute(
            "UPDATE measurements SET value = 4 * value WHERE metric = 'kld' AND trial_id = ?",
            contrast.finding.evidence[:1],
        )
    code, told = checked(path, capsys)
    assert code == 1
    fell = {row["id"]: row for row in told["changed"] if row["fell"]}
    assert fell[contrast.id]["stored"] == "confirmed"
    assert fell[contrast.id]["now"] in ("hypothesis", "refuted")
    assert fell[contrast.id]["effect_now"] != fell[contrast.id]["effect_stored"]
    assert not fell.keys() & unharmed
    with Store.open(path, readonly=True) as store:  # it was a question: nothing is changed
        assert store.findings.get(contrast.id) == contrast


def test_findings_of_an_older_version_stay_as_they_are(path, capsys, raise_version):
    raise_version(type(protocol("quality")))
    code, found = checked(path, capsys)
    assert (code, found["changed"], found["fell"]) == (0, [], 0)
    assert found["outdated"] == found["findings"] > 0
    with pytest.raises(SystemExit):
        run(["findings", "--check", "--store", str(path)])
    told = capsys.readouterr().out
    assert told.startswith("0 findings judged again")
    assert f"{found['findings']} more rest on results of an older version" in told


def test_a_new_version_is_judged_by_its_own_trials(path, raise_version, infos):
    raise_version(type(protocol("quality")))
    with Store.open(path) as store:
        old = store.trials.list()
        records = [
            record.model_copy(update={"id": record.id + 100, "number": record.number + 24, "outdated": False})
            for record in old
        ]
        findings = store.findings.list(1, status="confirmed")
    named = {info.name: info for info in infos}
    # Half of the old trials were run anew: only these count, and none of them is pooled with what it was before.
    history = History.before(48, [*old, *records[:12]], 0, findings)
    assert {record.id for result in history.results().values() for record in result.records} == set(range(101, 113))
    assert all(len(result.records) <= 2 for result in history.results().values())
    known = [record.finding for record in findings]
    judged = judge([], known, history, named)
    assert judged == []
    assert {record.fingerprint for record in old}.isdisjoint(fingerprint(record.spec) for record in old)


@pytest.mark.parametrize("seed", range(1, 4))
def test_trials_of_another_campaign_confirm_what_holds_there_and_refute_what_does_not(path, make_lab, infos, seed):
    """As on another device: the same configurations, other numbers, and on one of the models no such effect."""
    with Store.open(path, readonly=True) as store:
        records = store.trials.list()
        findings = [f.finding for f in store.findings.list(status="confirmed") if f.finding.kind == "contrast"]
    named = {info.name: info for info in infos}

    def there(law, of=lambda record: True) -> dict[str, str]:
        lab = make_lab(seed=seed, law=law)
        chosen = [record for record in records if of(record)]
        other = [lab.run(number, Proposal(spec=r.spec, proposer="test")) for number, r in enumerate(chosen)]
        return elsewhere(findings, History(tuple(other)), named)

    assert set(there(law).values()) == {"confirmed"}
    assert set(there(lambda spec: -law(spec)).values()) == {"refuted"}
    assert set(there(law, lambda r: r.spec.replicate == 0).values()) == {"hypothesis"}
    assert there(law, lambda r: r.spec.model == "alpha") == {}  # nothing there decides it


def test_findings_say_on_which_devices_they_hold(path, capsys, make_lab, infos):
    def told() -> list[dict]:
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run(["findings", "--store", str(path), "--campaign", "x", "--status", "confirmed", "--json"])
        found = json.loads(capsys.readouterr().out)
        return [row["devices"] for row in found if row["key"].startswith("contrast:")]

    assert set(map(len, told())) == {0}
    with Store.open(path) as store:
        measure(store, "y", make_lab(seed=1, law=lambda spec: -law(spec)), infos, "cuda")
    assert told().count({"cpu": "confirmed", "cuda": "refuted"}) == len(told()) > 0
    with Store.open(path) as store:
        measure(store, "z", make_lab(seed=2, law=law), infos, "cuda")  # the latest one counts
    assert told().count({"cpu": "confirmed", "cuda": "confirmed"}) == len(told())
