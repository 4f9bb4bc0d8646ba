"""`swarm recommend` on a store: what it prints, what it refuses, and the trials that it runs."""

from __future__ import annotations

import json

import pytest
from samples import complete, measurement

import swarm
from swarm.agents.history import History
from swarm.experiments.models import registry
from swarm.experiments.space.search_space import Space
from swarm.memory.records import Budget, Proposal
from swarm.memory.store import Store
from swarm.orchestrator import launching, recommending
from swarm.orchestrator.asked import PROPOSER, AskedStrategy
from swarm.orchestrator.recommending import recommend
from swarm.orchestrator.workload import Workload

MODEL, OTHER = "smollm2-135m", "gemma3-270m"
HARD = (0.6, 1.4, 0.8, 1.2)
"""How hard the windows are."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A store in which the default configurations of two models are measured, by a formula."""
    place = tmp_path_factory.mktemp("recommend") / "swarm.db"
    infos = [registry.describe(name) for name in (MODEL, OTHER)]
    told = {"models": [MODEL, OTHER], "context": 512, "identity": {"corpus": "c", "device": "cpu", "models": {}}}
    with Store.open(place, create=True) as store:
        for info in infos:
            store.models.register(info)
        campaign = store.campaigns.create("night", told, Budget(trials=100), 0)
        specs = [(info, spec) for info in infos for spec in Space([info], corpus_digest="c").defaults(info)]
        for number, (info, spec) in enumerate(specs):
            record = store.propose(campaign.id, number, Proposal(spec=spec, proposer="test"))
            bits = ((spec.kv.key.bits or 16) + (spec.kv.value.bits or 16)) / 2
            kld = 4.0**-bits * (1 + 0.1 * (number % 3) + (info.name == OTHER))
            found = measurement(kld=kld, bits=bits + 0.5 * (bits < 16))
            series = {"window_kld": tuple(kld * part for part in HARD)}
            complete(store, store.queue.claim(record.id, "me"), found.model_copy(update={"arrays": series}))
    return place


def test_the_command_says_what_to_use_and_writes_the_recipe(cli, path, tmp_path):
    out = tmp_path / "best.json"
    done = cli("recommend", "--store", str(path), "--model", MODEL, "--bits", "5", "--out", str(out))
    assert done.code == 0, done.err
    for said in ("expected KLD", "90% interval", "Runner-up", "Not tested", "Trials that would decide most"):
        assert said in done.out
    found = json.loads(cli("recommend", "--store", str(path), "--model", MODEL, "--bits", "5", "--json").out)
    recipe = swarm.load_recipe(out)
    assert recipe.kv.short_label == found["choice"]["configuration"]
    assert recipe.evidence.trial == found["choice"]["trials"][0]


def test_command_and_python_give_the_same_answer(cli, path):
    printed = json.loads(cli("recommend", "--store", str(path), "--model", OTHER, "--bits", "5", "--json").out)
    assert recommend(OTHER, bits=5, store=path).model_dump(mode="json") == printed


def test_memory_becomes_bytes_of_cache(path):
    found = recommend(MODEL, memory=0.5, context=16_384, store=path)
    assert found.choice.cache_bytes <= found.limits.cache_bytes
    assert "weights" in found.limits.note


def test_a_bundled_model_without_trials_is_answered_from_the_others(path):
    found = recommend("qwen2.5-coder-0.5b", bits=5, store=path)
    assert not found.choice.trials
    assert recommend(MODEL, bits=5, store=path).choice.loss.high < found.choice.loss.high
    recipe = recommending.recipe(str(path), found)
    assert json.loads(recipe)["model"] == "qwen2.5-coder-0.5b"


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--model", "nobody", "--bits", "4"), "unknown model 'nobody'", 2),
        (("--model", MODEL), "nothing limits the cost", 2),
        (("--model", MODEL, "--bits", "4", "--memory", "1"), "both limit", 2),
        (("--model", MODEL, "--memory", "1"), "belong together", 2),
        (("--model", MODEL, "--bits", "-1"), "bits=-1", 2),
        (("--model", MODEL, "--bits", "nan"), "bits=nan", 2),
        (("--model", MODEL, "--bits", "0.5"), "the cheapest", 1),
        (("--model", MODEL, "--tolerance", "1e-12"), "upper limit", 1),
        (("--model", MODEL, "--memory", "0.3", "--context", "4K"), "no cache fits", 2),
        (("--model", MODEL, "--bits", "4", "--run", "1000"), "out of range", 2),
    ],
)
def test_what_cannot_be_answered_is_one_line(cli, path, arguments, said, code):
    done = cli("recommend", "--store", str(path), *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_an_empty_store_says_what_to_do(cli, tmp_path):
    with Store.open(tmp_path / "empty.db", create=True):
        pass
    done = cli("recommend", "--store", str(tmp_path / "empty.db"), "--model", MODEL, "--bits", "4")
    assert done.code == 1
    assert "only 0" in done.err
    assert "swarm launch" in done.err


def test_trials_that_decide_are_proposed_as_they_were_asked_for_and_nothing_is_run_twice(path):
    ask = {"bits": 5.0, "memory": None, "context": None, "tolerance": None}
    wanted = recommending.answer(str(path), MODEL, ask, 4).decisive
    chosen = recommending.deciding(str(path), MODEL, 4, ask)
    assert [one.kv for one in chosen.asked] == [one.spec.kv for one in wanted]
    with Store.read(path) as store:
        workload = Workload.stored(store, store.campaigns.get())
        known = store.trials.list()
    only = Workload((MODEL,), workload.identity, [info for info in workload.infos if info.name == MODEL])
    agents = AskedStrategy(chosen.asked, launching.make_strategy(chosen, only))
    proposals = [agents.propose(number, History(())) for number in range(5)]
    specs = [proposal.spec for proposal in proposals[:4]]
    assert [(s.kv, s.replicate) for s in specs] == [(one.spec.kv, one.spec.replicate) for one in wanted]
    assert {proposal.proposer for proposal in proposals[:4]} == {PROPOSER}
    assert proposals[4].proposer != PROPOSER
    before = {(r.spec.model, r.spec.kv, r.spec.replicate) for r in known}
    assert not before & {(s.model, s.kv, s.replicate) for s in specs}


@pytest.mark.slow
def test_trials_are_run_through_a_campaign_and_the_answer_is_given_again(tmp_path):
    place = tmp_path / "swarm.db"
    with swarm.launch(MODEL, 10, context=64, store=place, workers=1) as campaign:
        assert campaign.result(progress=False) == "complete"
    before = recommend(MODEL, bits=9, store=place)
    after = recommend(MODEL, bits=9, run=2, store=place)
    with Store.read(place) as store:
        added = [r for r in store.trials.list() if r.proposer == PROPOSER]
        assert {r.state for r in added} == {"complete"}
        assert len(added) == 2
        assert [(r.spec.kv, r.spec.replicate) for r in added] == [
            (one.spec.kv, one.spec.replicate) for one in before.decisive[:2]
        ]
        assert store.ledger.totals(added[0].campaign_id)["trials"].spent == 2
    assert set(before.choice.trials) <= set(after.choice.trials) or after.choice.kv != before.choice.kv
