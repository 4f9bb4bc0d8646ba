"""From a trial to its use: recipe and generate, as people run them."""

from __future__ import annotations

import json
import shutil

import jsonschema
import pytest
import samples
from tiny_models import write_tiny_model

from swarm.experiments.deploy.recipe import load_recipe
from swarm.experiments.measurement.runner import Runner, measure
from swarm.experiments.spec import Metric
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Budget
from swarm.memory.store import Store
from swarm.orchestrator import machine
from swarm.orchestrator.commands import schema as schemas
from swarm.orchestrator.recipes import FactorsError, of_trial


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The path of a model."""
    return str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama", seed=3))


@pytest.fixture
def kept(tmp_path, tiny):
    """A store with trials: complete, of another protocol, with a logit gain, failed."""
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=9), 0)
        kv = samples.kv(8, 4).model_copy(update={"key": samples.kv(8).key.model_copy(update={"group_size": 32})})
        kv = kv.model_copy(update={"value": kv.value.model_copy(update={"group_size": 32})})
        proposals = [
            samples.proposal(kv=kv, model=tiny, layers=(1, 2), seed=7),
            samples.proposal(1, model=tiny, protocol="attention"),
            samples.proposal(2, model=tiny, logit_gain=2.0),
            samples.proposal(3, model=tiny),
            samples.proposal(4, model=tiny, edits="keys even layer 0"),
        ]
        for number, proposal in enumerate(proposals):
            trial = store.propose(campaign.id, number, proposal)
            lease = store.queue.claim(trial.id, "test")
            if number == 3:
                samples.fail(store, lease, "oom", "no memory")
            elif number == 1:
                result = samples.measurement()
                metrics = tuple(metric for metric in result.metrics if metric.name != "kld")
                samples.complete(store, lease, result.model_copy(update={"metrics": metrics}))
            else:
                samples.complete(store, lease, samples.measurement(kld=0.25))
    return tmp_path


def test_a_recipe_names_configuration_layers_and_evidence(cli, kept, tiny):
    done = cli("recipe", "1")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["model"], found["kv"]["layers"], found["seed"]) == (tiny, [1, 2], 7)
    assert found["plan"] == [
        {"layers": "1-2", "keys": "affine8/g32", "values": "affine4/g32"},
        {"layers": "all others", "keys": "none", "values": "none"},
    ]
    assert found["evidence"]["campaign"] == "night"
    assert found["evidence"]["metrics"]["kld"]["value"] == 0.25
    assert cli("recipe", "1", "--out", "best.json").out == ""
    assert load_recipe(kept / "best.json").text() == done.out


def test_what_kernels_took_stands_beside_quality_and_in_the_recipe(cli, tmp_path):
    four, eight = samples.kv(4).model_copy(update={"sink_tokens": 4}), samples.kv(8)
    times = {"decode_us_at_8192": 30.0, "decode_us_sdpa16_at_8192": 90.0}
    timed = samples.measurement().model_copy(
        update={"metrics": tuple(Metric(name=name, value=value, unit="us") for name, value in times.items())}
    )
    agreeing = samples.measurement(kld=0.1).model_copy(update={"arrays": {"window_kld": (0.05, 0.1, 0.15)}})
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=3), 0)
        for number, (kv, protocol) in enumerate(((four, "quality"), (eight, "quality"), (samples.kv(4), "attention"))):
            trial = store.propose(campaign.id, number, samples.proposal(kv=kv, protocol=protocol))
            samples.complete(store, store.queue.claim(trial.id, "test"), timed if number == 2 else agreeing)
    (row,) = json.loads(cli("trials", "--speed", "--json").out)
    assert (row["trial_id"], row["timed_by"], row["context"], row["front"]) == (1, 3, 8192, True)
    assert (row["decode_us"], row["decode_us_16"]) == (30.0, 90.0)
    assert row["configuration"] == four.label
    assert "No kernel was timed" in cli("trials", "--speed", "--max-bits", "1").out
    evidence = [json.loads(cli("recipe", trial).out)["evidence"] for trial in "12"]
    assert {name: metric["value"] for name, metric in evidence[0]["times"].items()} == times
    assert "times" not in evidence[1]


def test_learned_factors_are_those_that_were_measured(cli, tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    four = QuantSpec(method="affine", bits=4, group_size=32, scaling="learned")
    proposal = samples.proposal(kv=KVSpec(key=four, value=four), model=tiny, layers=(0, 2), context=48)
    measured = Runner(cache_dir=tmp_path / "cache").run(proposal.spec)
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=2), 0)
        for number, result in enumerate((measured, measured.model_copy(update={"notes": "Of another machine."}))):
            changed = samples.proposal(**{**dict(proposal.spec), "seed": number})
            trial = store.propose(campaign.id, number, changed)
            samples.complete(store, store.queue.claim(trial.id, "test"), result)
    done = cli("recipe", "1", "--out", "best.json")
    assert done.code == 0, done.err
    recipe = load_recipe(tmp_path / "best.json")
    assert [(entry.layer, entry.side) for entry in recipe.factors] == [(n, s) for n in (0, 2) for s in ("key", "value")]
    shutil.rmtree(tmp_path / "cache")
    with Store.open(tmp_path / "swarm.db") as store:
        assert of_trial(store.trials.get(1), "night") == recipe  # fitted again on the same text
        with pytest.raises(FactorsError, match="not those that trial 2 was measured with"):
            of_trial(store.trials.get(2), "night")
    found = json.loads(cli("generate", "--recipe", "best.json", "--tokens", "4", "--json", "Topics: ").out)
    assert "+learned" in found["runs"][0]["cache"]


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("2", "measured attention"),
        ("3", "logits by 2"),
        ("4", "is failed"),
        ("5", "edited the weights (keys even layer 0)"),
        ("99", "unknown trial '99'"),
        ("x", "invalid value"),
    ],
)
def test_trials_that_make_no_recipe(cli, kept, trial, said):
    done = cli("recipe", trial)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_trial_with_edited_weights_is_reproduced(cli, tmp_path, tiny):
    kv = "K affine4/g32 V affine4/g32"
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=9), 0)
        given = {"model": tiny, "kv": kv, "context": 64, "edits": "keys outliers x8; values even"}
        trial = store.propose(campaign.id, 0, samples.proposal(**given))
        found = measure(tiny, kv, context=64, edits=given["edits"])
        samples.complete(store, store.queue.claim(trial.id, "test"), found)
    done = cli("reproduce", "1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["verdict"] == "same"
    assert "keys outliers x8; values even" in cli("show", "trial", "1").out
    assert found["kld"] != measure(tiny, kv, context=64)["kld"]


def test_text_is_generated_next_to_16_bit(cli, kept, tiny):
    cli("recipe", "1", "--out", "best.json")
    done = cli("generate", "--recipe", "best.json", "--tokens", "6", "Topics of interest: ")
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if "KiB" in line]
    assert rows[0].startswith("K affine8/g32 V affine4/g32 layers 1-2")
    assert rows[1].startswith("16 bit")
    assert "tokens are those of 16 bit" in done.out
    packed, plain = (float(row.split()[-1]) for row in rows)
    if abs(plain / packed - 1.05) > 0.02:  # rates are shown rounded
        assert ("16 bit is faster here: decode" in done.out) == (plain / packed > 1.05)
    done = cli("generate", "--model", tiny, "--kv", "q8_0", "--tokens", "6", "--json", "Topics of interest: ")
    found = json.loads(done.out)
    jsonschema.validate(found, schemas.schema("generate"))
    packed, plain = found["runs"]
    assert packed["bits_per_value"] == 8.5
    assert packed["cache_bytes"] < plain["cache_bytes"]
    assert found["same_tokens"] <= 6
    for doing, ratio in found["sixteen_bit_speedup"].items():
        assert ratio == pytest.approx(plain[f"{doing}_rate"] / packed[f"{doing}_rate"])
    done = cli("generate", "--model", tiny, "--kv", "q8_0", "--tokens", "6", "--json", "--no-compare", "hello")
    assert len(json.loads(done.out)["runs"]) == 1
    assert json.loads(done.out)["sixteen_bit_speedup"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("generate", "--model", "M", "hello"), "Give --recipe or --kv"),
        (("generate", "--kv", "q8_0", "hello"), "Give --model"),
        (("generate", "--model", "M", "--kv", "4.5", "hello"), "'4.5': unknown method"),
        (("generate", "--model", "M", "--kv", "magic", "hello"), "'magic': unknown method"),
        (("generate", "--model", "M", "--kv", "affine4/g128", "hello"), "does not divide the head size"),
        (("generate", "--recipe", "missing.json", "hello"), "missing.json cannot be read"),
        (("generate", "--model", "M", "--kv", "q8_0", "  "), "prompt is empty"),
        (("generate", "--model", "no-model", "--kv", "q8_0", "hello"), "no-model"),
        (("serve", "--model", "M"), "Give --recipe or --kv"),
        (("serve", "--model", "M", "--kv", "q8_0", "--host", "300.1.1.1", "--port", "0"), "cannot listen"),
    ],
)
def test_mistakes_get_one_line(cli, tiny, args, said):
    done = cli(*(tiny if arg == "M" else arg for arg in args))
    assert done.code in (1, 2)
    assert said in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


def test_a_trial_becomes_flags_and_their_cost_is_measured(cli, tmp_path, tiny):
    kv = "K affine8/g32 V affine4/g32 sink4"
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {"corpus": None}, Budget(trials=9), 0)
        trial = store.propose(campaign.id, 0, samples.proposal(model=tiny, kv=kv, context=64, rung=1))
        samples.complete(store, store.queue.claim(trial.id, "test"), measure(tiny, kv, context=64, rung=1))
    done = cli("recipe", "1", "--for", "llama.cpp", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    jsonschema.validate(found, schemas.schema("recipe"))
    assert (found["configuration"], found["cost"]) == ("K q8_0 V q4_1", None)
    assert found["measure_with"] == "swarm recipe 1 --for llama.cpp --measure"
    assert "the first 4 tokens in 16 bit" in found["not_expressed"]
    done = cli(*found["measure_with"].split()[1:])
    assert done.code == 0, done.err
    assert "Measured cost: KLD" in done.out
    again = json.loads(cli("recipe", "1", "--for", "llama.cpp", "--json").out)
    with Store.open(tmp_path / "swarm.db", readonly=True) as store:
        measured = store.trials.get(2)
        assert store.campaigns.get(measured.campaign_id).name == "recipe-1"
    assert (measured.spec.kv.label, measured.spec.context) == ("K q8_0 V q4_1", 64)
    assert again["cost"]["trials"] == [2]
    assert again["cost"]["engine_kld"] == pytest.approx(measured.metrics["kld"].value)
    assert again["cost"]["low"] <= again["cost"]["ratio"] <= again["cost"]["high"]
    done = cli("recipe", "1", "--for", "mlx-lm", "--json")
    assert json.loads(done.out)["configuration"] == "K affine8/g32 V affine8/g32"


def test_flags_become_a_recipe_and_run_as_a_trial(cli, tmp_path, tiny):
    flags = ("recipe", "--for", "llama.cpp", "--flags", "-ctk q8_0 -ctv q4_0", "--model", tiny)
    done = cli(*flags)
    assert done.code == 0, done.err
    assert "K q8_0+hadamard V q4_0+hadamard" in done.err
    assert "evidence" not in json.loads(done.out)
    done = cli(*flags, "--measure", "--out", "best.json")
    assert done.code == 0, done.err
    recipe = load_recipe(tmp_path / "best.json")
    assert recipe.evidence.campaign == "recipe-1"
    assert recipe.evidence.rung == 1
    assert recipe.model_digest


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("recipe",), "Give a trial"),
        (("recipe", "1", "--flags", "-ctk q8_0"), "Give a trial"),
        (("recipe", "--flags", "-ctk q8_0", "--for", "llama.cpp"), "Give --for and --model"),
        (("recipe", "1", "--for", "tensorrt"), "unknown engine 'tensorrt'"),
        (("recipe", "1", "--measure"), "go with --for"),
        (("recipe", "2", "--for", "vllm"), "measured attention"),
    ],
)
def test_recipes_for_engines_that_make_no_sense(cli, kept, args, said):
    done = cli(*args)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_nothing_is_decided_about_texts_that_a_model_cannot_read(cli, tiny):
    done = cli("decide", "--model", tiny, "--kv", "KV affine4/g32", "--context", "1K")
    assert (done.code, done.out) == (2, "")
    assert "context=1024 is longer" in done.err
    assert done.err.count("\n") == 1


def test_nothing_is_decided_about_texts_that_memory_cannot_hold(cli, monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: 2 * machine.GIB)
    done = cli("decide", "--model", "smollm2-135m", "--kv", "KV q8_0", "--context", "8K")
    assert (done.code, done.out) == (2, "")
    assert "texts of 8192 tokens need 1.9" in done.err
    assert done.err.count("\n") == 1
