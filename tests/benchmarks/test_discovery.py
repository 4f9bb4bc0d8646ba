"""Planted truths: what is drawn, that a twin is the model in 16 bit, and what findings are taken to name."""

import importlib
import json
from pathlib import Path

import pytest

from swarm.experiments import edits
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Finding

planted = importlib.import_module("benchmarks._planted")
discovery = importlib.import_module("benchmarks.discovery")
peers = importlib.import_module("benchmarks._discovery_peers")

LAYERS = {"a": 30, "b": 18}


def test_every_kind_is_planted_in_every_model_and_sizes_are_drawn():
    drawn = [planted.draw(seed, LAYERS) for seed in range(280)]
    assert {(plant.kind, plant.base) for plant in drawn[:14]} == {(k, b) for k in planted.KINDS for b in LAYERS}
    for plant in drawn:
        if plant.kind == "none":
            assert plant.edits == ()
            continue
        low, high = planted.LAYER_FACTORS if "layer" in plant.kind else planted.FACTORS[plant.kind]
        assert low <= plant.factor <= high
        assert edits.read(planted.label(plant)) == plant.edits
        assert plant.layers is None or max(plant.layers) < LAYERS[plant.base]
    factors = [plant.factor for plant in drawn if plant.kind == "keys"]
    assert len(set(factors)) == len(factors)
    assert drawn == [planted.draw(seed, LAYERS) for seed in range(280)]


@pytest.mark.parametrize("ended", [12, 20, 30, 42])
def test_whatever_there_is_time_for_has_all_arms_and_as_many_twins_without_a_cause(ended):
    done = discovery.in_turns(range(discovery.SEEDS))[:ended]
    for arm, weight in discovery.WEIGHTS.items():
        controls = [planted.kind(seed) in planted.CONTROLS for one, seed in done if one == arm]
        assert abs(sum(controls) - len(controls) / 2) <= 1
        assert abs(len(controls) - ended * weight / sum(discovery.WEIGHTS.values())) <= 2


@pytest.mark.parametrize("seed", [2, 3, 5, pytest.param(6, marks=pytest.mark.slow)])
def test_a_twin_differs_from_its_model_where_it_was_planted(tiny_models, seed):
    base = tiny_models["llama"]
    with planted.planted(seed, {base: Path(base)}) as (plant, runner, infos):
        assert infos[1].name == planted.TWIN
        kv = KVSpec.parse("K none V affine4/g32" if plant.part == "values" else "K affine4/g32 V none")
        specs = (TrialSpec(model=info.name, kv=kv.on(plant.layers), context=96) for info in infos)
        model, twin = (runner.run(spec)["kld"] for spec in specs)
    if plant.kind in planted.CONTROLS:
        assert twin == pytest.approx(model, rel=1e-2)
    else:
        assert twin > 1.1 * model


def test_a_finding_names_what_the_trials_that_it_rests_on_were_edited_in():
    lab = importlib.import_module("benchmarks._from_tests").load("agents/conftest").Laboratory()
    records = []
    for number, text in enumerate(("", "keys balanced layer 3", "values even")):
        spec = TrialSpec(model="twin", kv=KVSpec.parse("KV affine4/g64"), edits=text)
        records.append(lab.run(number, peers.Proposal(spec=spec, proposer="test")))
    finding = Finding(kind="cause", key="k", statement="s", models=("twin", "a"), evidence=(1, 2), author="cause")
    assert planted.named(finding, records) == {("keys", (3,))}
    assert planted.named(finding.model_copy(update={"evidence": (1, 3)}), records) == {("values", None)}
    assert discovery.says_that_models_differ(finding)
    assert not discovery.says_that_models_differ(finding.model_copy(update={"kind": "transfer"}))


def test_the_page_says_what_was_named_missed_and_wrongly_told():
    about = {
        "base": "a",
        "factor": 4.0,
        "harm": 0.2,
        "failed": 0,
        "seconds": 1.0,
        "arm": "swarm",
        "wrong": [],
        "causes": [],
    }
    rows = [
        {**about, "seed": 0, "kind": "keys", "planted": "keys outliers x4", "differences": 1, "side": True,
         "layers": True, "cause": True},
        {**about, "seed": 1, "kind": "values", "planted": "values outliers x4", "differences": 0, "side": False,
         "layers": False, "cause": False},
        {**about, "seed": 6, "kind": "none", "planted": "nothing", "differences": 1, "side": False,
         "layers": False, "cause": False},
    ]  # fmt: skip
    facts = dict.fromkeys(("command", "date", "git_revision", "device", "blas", "python"), "x")
    results = {"budget": 150, "context": 128, "rows": rows}
    record = {"benchmark": "discovery", "cores": 1, "versions": {}, "load_before": 0.0, **facts, "results": results}
    page = discovery.page(json.loads(json.dumps(record)))
    assert "0.50 [" in page
    assert "| 1 | a | values outliers x4 | 1.22 |" in page
    assert "1.00 [" in page
    assert page.count("not met") == 2
